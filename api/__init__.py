"""Tokens -> HTTP. The only room that may import litestar.

A request's way: ``edge``, ``controllers``, ``request`` (fields in), the engine, ``response`` (bytes out), seen by
``observe``; ``process`` is everything around it. Knows no graph and no session.
"""

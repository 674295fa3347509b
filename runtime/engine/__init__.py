"""Requests -> token events: the step loop, its scheduler and slots, its thread, and its asyncio front.

Knows sessions through their seam alone; knows no text and no HTTP.
"""

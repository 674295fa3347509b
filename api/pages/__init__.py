"""What people see in a browser: the page at ``/``, the page of ``/docs`` and its files. Knows no route, no engine."""

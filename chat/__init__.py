"""A conversation in the terminal: what a person types becomes chat requests, and their answers become text.

A room of its own, because it is a client: ``api/`` is a server and may not open connections, and ``bench/`` measures.
There is one way to a model, HTTP. A model of this machine is served by a server of one's own, a child process on a
free port of 127.0.0.1 (``own_server.py``), so templates, constraints and limits are exactly those of
``powertrain serve``, and a crash of the model does not take the conversation along.

``wire.py`` (bytes to pieces of an answer) and ``client.py`` know HTTP; ``conversation.py`` holds what is sent;
``screen.py`` is the only one that writes; ``slash.py`` has the words that begin with ``/``; ``session.py`` puts them
together; ``editor.py`` reads a terminal. Knows no tokenizer, no template and no package's contents.
"""

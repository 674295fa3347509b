"""Command lines -> calls of this room: ``powertrain doctor``, and what every room's commands share.

That is the MODEL argument, groups that import a command when it is called, and what a command may ask of the program
around it. Owns words and what is printed; knows no session and no request.
"""

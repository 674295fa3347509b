"""Step times and a kind of conversations -> what replicas of an engine would do. Simulation, not measurement: no
model, no socket, no clock but a number."""

"""What the front and a replica say to each other, and both ends of it. Knows ASGI; knows no ray and no model."""

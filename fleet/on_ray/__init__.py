"""A fleet's spec -> an application on Ray Serve, and a cluster to run it on. The only folder that imports ray."""

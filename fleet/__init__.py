"""Several engines behind one address: a front that takes requests in, replicas that answer them, Ray Serve between.

Owns which replica gets a request (``routing``), what the front and a replica say to each other (``relay``), and the
deployments on Ray (``on_ray``, the only folder that imports ray). Knows no model and no field of an answer.
"""

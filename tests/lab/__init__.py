"""Several hosts on one machine: each with a network, an engine and a daemon of its own, for rollouts.

``with Lab(hosts=3) as lab`` brings it up and ends it (``cluster.py``); ``faults.py`` breaks it,
``load.py`` sends requests through its load balancers and tells honestly what failed. It needs root.
``scripts/lab`` is the same for people.
"""

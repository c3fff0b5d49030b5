"""The running service: its roles, the resources that they share, worker processes, signals.

It puts the floors below together as the settings say. It imports every floor, `tidings.config` and
`tidings.observability`; only the command line, the demo and the public face import it.
"""

"""How every floor deals with what fails, or is asked for too often: waits, rates, breakers, turns.

Knows nothing of stores, logs or HTTP; imports the standard library alone.
"""

"""How every floor deals with what fails or is asked for too often.

Waits, rates and circuit breakers.

Knows nothing of stores, logs or HTTP; imports the standard library alone.
"""

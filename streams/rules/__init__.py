"""What an event does to a record: pure, and imports nothing that does I/O.

`event` is what was said, `transitions` decides, `merging` joins fields, `reducer` reduces a prediction's events into one write.
"""

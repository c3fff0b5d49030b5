"""A log on Kafka, by aiokafka, which no other folder imports.

The log, members of consumer groups, followers without a group, the producer, topics and settings.
"""

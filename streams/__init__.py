"""How reports become state: events, rules, logs, the processor, replay."""

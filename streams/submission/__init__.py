"""Submitting predictions to providers, asking for their state, and canceling them.

The record decides who calls; what a provider answers goes back into the events. Imports `changes`,
`providers`, `rules` and `log`.
"""

"""The routes: webhooks, predictions, streams, dead letters, assets, health and the page.

Each imports what it uses of `auth`, `push` and `http`; `app` puts them together.
"""

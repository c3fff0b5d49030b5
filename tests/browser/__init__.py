"""The page and the browser client, in a real browser against a real service."""

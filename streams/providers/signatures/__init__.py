"""Ways to prove a webhook: Standard Webhooks, HMAC in a header, Ed25519, keys from a JWKS.

Pure but for the cryptography; none knows a provider.
"""

"""Records at Cloudflare: KV by REST or a Worker, and Durable Objects by the Worker in `worker/`.

Imports the rest of `storage` and aiohttp.
"""

"""Parts against real servers: brokers, databases, proxies."""

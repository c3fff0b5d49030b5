"""What every HTTP answer needs: problems, bodies, fast answers, the server.

Imports nothing else of this floor.
"""

"""What puts the parts together: roles, resources, worker processes, signals."""

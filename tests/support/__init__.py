"""What tests share: real servers on loopback, processes, conditions to wait for."""

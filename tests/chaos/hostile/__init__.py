"""The hostile hour: what clients, senders and strangers can cost all at once, and what an owner beside them notices."""

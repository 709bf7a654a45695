"""Many connections that come and go, well-behaved or not: nothing of them may remain."""

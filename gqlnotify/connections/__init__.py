"""What sockets and HTTP streams share: limits, tokens, and what is known of the peer."""

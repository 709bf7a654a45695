"""Many connections that come and go, badly and well: nothing may be left of them."""

"""Every byte of a store is read again and compared."""

"""The spool: the durable seam between the gateway and the recorder."""

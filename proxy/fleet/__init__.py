"""Fleet: many gateways and recorders on many machines, with NATS JetStream between them."""

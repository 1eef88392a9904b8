"""The forward passes of all experts of an ensemble, as few and as large as their kind allows."""

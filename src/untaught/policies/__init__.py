"""Filter policies: made, estimated, carried out and audited."""

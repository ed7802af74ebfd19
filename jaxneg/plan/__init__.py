"""What training would take on devices that are not there."""

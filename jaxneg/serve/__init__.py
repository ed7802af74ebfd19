"""What takes a trained model out of training: the export, and a scorer that needs nothing but the export."""

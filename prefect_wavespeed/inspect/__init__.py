"""What people ask afterwards."""

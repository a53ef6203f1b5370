"""What tests share: servers, processes and ways to look."""

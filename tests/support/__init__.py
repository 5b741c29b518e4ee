"""What several tests need around the thing under test."""

"""ETL jobs: runs that succeed and load the wrong number of rows."""

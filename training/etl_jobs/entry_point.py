"""What SageMaker starts; it lies at the root of the source bundle, so that everything beside it can be imported."""

import sys

from training.etl_jobs.train import main

if __name__ == "__main__":
    main(sys.argv[1:])

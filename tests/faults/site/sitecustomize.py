"""Python imports this at start where PYTHONPATH names its directory: arms the kill points."""

import os

if os.environ.get("FAULTS_ARMED"):
    import killpoints

    killpoints.install(os.environ["FAULTS_ARMED"])

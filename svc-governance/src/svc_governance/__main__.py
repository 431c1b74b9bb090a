import sys

from headrace.chassis.app import run_service
from svc_governance.app import build
from svc_governance.settings import Settings

sys.exit(run_service(Settings, build))

"""The settings that make up a spec: each is defined once here, for the command line and for the spec file alike."""

from typing import Final

from loadgen.spec.settings.endpoint import ENDPOINT
from loadgen.spec.settings.load import LOAD
from loadgen.spec.settings.sending import SENDING
from loadgen.spec.settings.setting import Setting
from loadgen.spec.settings.users import USERS
from loadgen.spec.settings.workload import WORKLOAD

SUBJECTS: Final = {
    "Endpoint": ENDPOINT,
    "Load": LOAD,
    "What is asked": WORKLOAD,
    "Users": USERS,
    "Sending and judging": SENDING,
}
"""In the order in which --help tells of them."""

SETTINGS: Final = {setting.name: setting for settings in SUBJECTS.values() for setting in settings}

__all__ = ["SETTINGS", "SUBJECTS", "Setting"]

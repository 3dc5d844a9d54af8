"""`covey certs`."""

import argparse

from covey.runtime.emulation.transport.address import BEHIND
from covey.runtime.emulation.transport.certificates import HOSTS_FILE, make
from covey.view.words import counted


def certs(arguments: argparse.Namespace) -> int:
    """Make certificates, and print where each folder goes."""
    launcher, *hosts = make(arguments.folder, arguments.hosts, arguments.days)
    print(
        f"Certificates for {counted(len(hosts), 'host')} and the launcher, valid for {counted(arguments.days, 'day')}."
    )
    print("Copy each host's folder to its machine and to no other, for it holds a private key. Start the host there:")
    for address, folder in zip(arguments.hosts, hosts, strict=True):
        way = f"--call-out {address.removeprefix(BEHIND)}" if address.startswith(BEHIND) else f"--listen {address}"
        print(f"  {folder}   covey host {way} --certs {folder.name}")
    print("The launcher's folder is for the machine that runs the experiment. Name it in the experiment:")
    print("  [engine]")
    print('  kind = "emulation"')
    print(f'  certs = "{launcher.as_posix()}"')
    print(f'  hosts_file = "{(launcher / HOSTS_FILE).as_posix()}"')
    return 0

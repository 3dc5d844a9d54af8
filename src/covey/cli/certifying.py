"""`covey certs`."""

import argparse

from covey.runtime.emulation.transport.certificates import HOSTS_FILE, make


def certs(arguments: argparse.Namespace) -> int:
    """Make certificates, and say what goes where."""
    launcher, *hosts = make(arguments.folder, arguments.hosts, arguments.days)
    print(f"Certificates for {len(hosts)} hosts and their launcher, valid for {arguments.days} days.")
    print("Copy each host's folder to its machine, and to no other; it holds a private key. There, start the host:")
    for address, folder in zip(arguments.hosts, hosts, strict=True):
        print(f"  {folder}   covey host --listen {address} --certs {folder.name}")
    print("The launcher's folder is for the machine that runs the experiment, which names it:")
    print("  [engine]")
    print('  kind = "emulation"')
    print(f'  certs = "{launcher.as_posix()}"')
    print(f'  hosts_file = "{(launcher / HOSTS_FILE).as_posix()}"')
    return 0

"""Who may come in: the guard that the app and every page call.

On this machine alone (loopback) and without a users file, whoever sits there is the engineer "local". With a users file
everybody signs in. On any other address nobody gets past the guard without one. What a role may do is the business of
the records calls; nothing is protected by being hidden.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from functools import lru_cache
from threading import Lock

import streamlit as st

from anomalib_gan.records.access import User, users, verify
from dashboard import settings

LOCAL = User("local", "engineer")
KEY = "signed in"
_one_guess = Lock()
"""Passwords are checked one at a time: guessing in parallel gains nothing and does not take all processors."""


def guard() -> User:
    """The person at the browser; ends the run with a form or a refusal where nobody is let in."""
    file = settings.read().users
    if file and os.path.isfile(file):
        return _signed_in(file)
    if is_loopback(bound_address()):
        if not file:
            return LOCAL
        st.error(f"The users file {file} is missing: restore it, or start the dashboard without --users.")
    else:
        st.error(
            f"This dashboard is reachable from other machines (address {bound_address() or 'all'}) and has no users "
            "file, so it stays closed. Start it with `--users FILE`, or on `--address 127.0.0.1`."
        )
    st.stop()


@lru_cache(1)
def bound_address() -> str | None:
    """The address that the server listens on, None for all; as it was when first asked, for the setting can change
    later and the socket does not.
    """
    address: str | None = st.get_option("server.address")
    return address or None


def is_loopback(address: str | None) -> bool:
    """Does the address belong to this machine alone? A name does where all that it stands for does.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback(None)
    (True, True, False, False)
    """
    if not address:
        return False
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        pass
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(address, None)}
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in found)


def _signed_in(file: str) -> User:
    user: User | None = st.session_state.get(KEY)
    try:
        if user is not None and user in users(file):  # taken out of the file is signed out
            return user
        st.session_state.pop(KEY, None)
        _form(file)
    except (ValueError, OSError) as error:
        st.error(str(error))
    st.stop()


def _form(file: str) -> None:
    with st.form("sign in", width=360):
        st.subheader("Sign in")
        name = st.text_input("Name", autocomplete="username", max_chars=100)
        password = st.text_input("Password", type="password", autocomplete="current-password", max_chars=1000)
        sent = st.form_submit_button("Sign in", type="primary")
    if not sent:
        return
    with _one_guess:
        user = verify(file, name, password)
    if user is None:
        st.error("Name or password is wrong.")
        return
    st.session_state[KEY] = user
    st.rerun()


def sign_out() -> None:
    """Forgets who sits at this browser, and all that they had open."""
    st.session_state.clear()

"""Who may use which topic."""

from gqlnotify import Action, Principal, may
from schema.chat.types import INBOXES, inbox_topic


def may_use(principal: Principal, action: Action, topic: str) -> bool:
    """Return whether a viewer has the right to `action` on `topic`.

    The token's patterns decide, but not who may read an inbox: only its owner may. So
    even a token for `*` opens only its own subject's inbox.
    """
    if action == "publish" or INBOXES.member(topic) is None:
        return may(principal, action, topic)
    return action == "subscribe" and topic == inbox_topic(principal.subject).name

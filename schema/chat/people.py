"""Who is in a room, as clients get it from the presence of its topic."""

from gqlnotify import Changed, Event, Joined, Left, Member, Present
from schema.chat.types import People, PeopleUpdate, Person, PersonEvent, PersonEventKind

_KINDS = {
    Joined: PersonEventKind.JOINED,
    Changed: PersonEventKind.CHANGED,
    Left: PersonEventKind.LEFT,
}


def people_of(present: Present) -> People:
    """Return who is present."""
    return People(count=present.count, members=[_person(each) for each in present.members])


def people_update(news: Present | Joined | Changed | Left, _event: Event) -> PeopleUpdate:
    """Return what the presence of a room has yielded."""
    if isinstance(news, Present):
        return PeopleUpdate(snapshot=people_of(news))
    return PeopleUpdate(change=PersonEvent(kind=_KINDS[type(news)], person=_person(news.member)))


def state_of(*, typing: bool) -> dict[str, bool]:
    """Return the state of a person who types, or does not."""
    return {"typing": typing}


def _person(member: Member) -> Person:
    # The state is None until the person types for the first time.
    typing = member.state == state_of(typing=True)
    return Person(subject=member.subject, typing=typing, since=member.since)

from __future__ import annotations

from orbitcontrol.model.containers import ObservedImage
from orbitcontrol.planning.images import ImageNeeds, removable

HUB = "docker.io/"


def tagged(*tags: str, name: str = "team/web", created: float | None = None) -> list[ObservedImage]:
    """Images built one after the other, unless ``created`` says when all of them were."""
    return [
        ObservedImage(
            id=f"id-{name}-{tag}",
            tags=(f"{name}:{tag}",),
            created=place if created is None else created,
            tagged=place,
        )
        for place, tag in enumerate(tags)
    ]


def needs(*, used: tuple[str, ...] = (), wanted: tuple[str, ...] = ()) -> ImageNeeds:
    return ImageNeeds(
        authoritative=frozenset({"team/web"}),
        used=frozenset(f"id-team/web-{tag}" for tag in used),
        wanted=frozenset(wanted),
    )


def test_of_an_authoritative_name_the_two_newest_tags_stay() -> None:
    assert removable(tagged("1", "2", "3", "4"), needs()) == ("team/web:2", "team/web:1")
    assert removable(tagged("1", "2"), needs()) == ()


def test_what_a_container_uses_and_what_one_is_about_to_use_stay_too() -> None:
    images = tagged("1", "2", "3", "4", "5")
    assert removable(images, needs(used=("1",), wanted=("team/web:2",))) == ("team/web:3",)
    assert removable(images, needs(wanted=(HUB + "team/web:2",))) == ("team/web:3", "team/web:1")


def test_other_names_are_not_looked_at() -> None:
    others = tagged("1", "2", "3", name="team/web2") + tagged("1", "2", "3", name="registry:5000/team/web")
    assert removable(others, needs()) == ()


def test_images_that_were_built_at_the_same_time_are_as_new_as_their_tags_here() -> None:
    assert removable(tagged("9", "8", "7", created=0.0), needs()) == ("team/web:9",)


def test_an_image_without_a_tag_counts_by_its_digest() -> None:
    nameless = ObservedImage(id="n", digests=("team/web@sha256:aa",), created=-1.0)
    images = [*tagged("1", "2"), nameless]
    assert removable(images, needs()) == ("team/web@sha256:aa",)
    assert removable(images, needs(wanted=("team/web@sha256:aa",))) == ()


def test_a_digest_of_an_image_that_has_a_tag_is_not_a_tag_of_its_own() -> None:
    one, two, three = tagged("1", "2", "3")
    pulled = ObservedImage(id=one.id, tags=one.tags, digests=("team/web@sha256:aa",))
    assert removable([pulled, two, three], needs()) == ("team/web:1",)
    assert removable([pulled, two, three], needs(wanted=("team/web@sha256:aa",))) == ()


def test_each_name_keeps_its_own_two() -> None:
    both = ImageNeeds(authoritative=frozenset({"a", "b:ignored"}))
    images = tagged("1", "2", "3", name="a") + tagged("1", "2", name="b")
    assert removable(images, both) == ("a:1",)

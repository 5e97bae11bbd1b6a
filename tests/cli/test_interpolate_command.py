"""`cvae interpolate`: strips and animations, compared with torch."""

import numpy as np
import pytest
from cli_helpers import DIGITS, noise, read_grid, read_images, run_torch, same_images
from PIL import Image, ImageSequence


def test_interpolate_writes_strip_from_seed_to_seed(cvae, trained):
    report = cvae("interpolate", trained["labels"], "--digit", 3, "--from", 4, "--to", 9, "--steps", 6, "--json").json
    assert report["steps"] == 6 and (report["stops"], report["mode"]) == (["4", "9"], "slerp")
    actual = read_grid("interpolation.png", 6, 1)
    ends = np.concatenate([noise(4, 1), noise(9, 1)])
    assert same_images(actual[[0, -1]], run_torch(trained["labels"], "decode", ends, [3, 3]))
    assert all((a != b).any() for a, b in zip(actual[1:], actual[:-1], strict=True))


def test_interpolate_writes_strip_from_label_to_label(cvae, trained):
    cvae("interpolate", trained["labels"], "--digit", 3, "--to-label", 8, "--steps", 3)  # with the same noise
    ends = run_torch(trained["labels"], "decode", np.repeat(noise(0, 1), 2, axis=0), [3, 8])
    assert same_images(read_grid("interpolation.png", 3, 1), np.stack([ends[0], ends.mean(0), ends[1]]))


def test_interpolate_writes_strip_from_image_to_image(cvae, trained, image_files):
    a, b = image_files
    assert cvae("interpolate", trained["plain"], "--from", a, "--to", b, "--steps", 4).code == 0
    means = run_torch(trained["plain"], "encode", read_images(image_files), None)
    assert same_images(
        read_grid("interpolation.png", 4, 1)[[0, -1]], run_torch(trained["plain"], "decode", means, None)
    )


def test_interpolate_without_label_writes_a_row_for_each_class(cvae, trained):
    assert "10 classes" in cvae("interpolate", trained["labels"], "--steps", 3).err
    starts = read_grid("interpolation.png", 3, 10)[::3]
    assert same_images(starts, run_torch(trained["labels"], "decode", np.repeat(noise(0, 1), 10, axis=0), DIGITS))


def test_interpolation_modes_differ_between_the_ends(cvae, trained):
    for mode in ("slerp", "lerp"):
        cvae("interpolate", trained["plain"], "--mode", mode, "--steps", 3, "--out", f"{mode}.png")
    slerp, lerp = read_grid("slerp.png", 3, 1), read_grid("lerp.png", 3, 1)
    assert np.array_equal(slerp[[0, 2]], lerp[[0, 2]]) and not np.array_equal(slerp[1], lerp[1])
    middle = noise(0, 1) / 2 + noise(1, 1) / 2
    assert same_images(lerp[[1]], run_torch(trained["plain"], "decode", middle, None))


@pytest.mark.parametrize(("fps", "milliseconds"), [(10, 100), (50, 20)])
def test_animation_runs_forward_and_back(cvae, trained, fps, milliseconds):
    assert cvae("interpolate", trained["plain"], "--steps", 5, "--fps", fps, "--out", "loop.gif").code == 0
    cvae("interpolate", trained["plain"], "--steps", 5, "--out", "strip.png")
    with Image.open("loop.gif") as gif:
        frames = [(np.asarray(frame.convert("L")), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]
    assert [duration for _, duration in frames] == [milliseconds] * 8
    strip = read_grid("strip.png", 5, 1)
    assert all(
        np.array_equal(frame, np.kron(strip[i], np.ones((35, 35))))
        for (frame, _), i in zip(frames, [0, 1, 2, 3, 4, 3, 2, 1], strict=True)
    )


def test_animation_that_ends_at_its_start_omits_the_last_stop(cvae, trained):
    flags = ["--from", 4, "--via", 9, "--via", 2, "--to", 4, "--steps", 3]
    assert cvae("interpolate", trained["plain"], *flags, "--out", "loop.gif").code == 0
    report = cvae("interpolate", trained["plain"], *flags, "--out", "strip.png", "--json").json
    assert report["steps"] == 7 and report["stops"] == ["4", "9", "2", "4"]
    strip = read_grid("strip.png", 7, 1)
    stops = np.concatenate([noise(4, 1), noise(9, 1), noise(2, 1), noise(4, 1)])
    assert same_images(strip[::2], run_torch(trained["plain"], "decode", stops, None))
    with Image.open("loop.gif") as gif:
        frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(gif)]
    assert len(frames) == 6  # the last stop equals the first, so it does not get its own frame
    assert all(np.array_equal(frame, np.kron(strip[i], np.ones((35, 35)))) for i, frame in enumerate(frames))


def test_intermediate_stops_use_the_first_label(cvae, trained):
    flags = ["--digit", 3, "--to-label", 8, "--via", 5, "--steps", 2]
    assert cvae("interpolate", trained["labels"], *flags).code == 0
    stops = np.concatenate([noise(0, 1), noise(5, 1), noise(0, 1)])
    assert same_images(read_grid("interpolation.png", 3, 1), run_torch(trained["labels"], "decode", stops, [3, 3, 8]))

"""Tracking on pictures made here: textured squares that move over a textured background."""

import math

import cv2
import numpy as np
import pytest

from steer_ros.regions.boxes import iou
from steer_ros.regions.flow import box_motions
from steer_ros.regions.tracking import Detection, Tracker

WIDTH, HEIGHT, SIDE = 320, 240, 48


def texture(seed, height, width, mean):
    """Smooth noise: grey with structure that the flow can hold on to, and no exact repeats."""
    noise = np.random.default_rng(seed).normal(0, 1, (height, width)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 2.0)
    return mean + 35 * noise / noise.std()


BACKGROUND = texture(0, HEIGHT + 200, WIDTH + 200, 110)
SQUARES = [texture(seed, SIDE, SIDE, mean) for seed, mean in ((1, 170), (2, 60))]


def picture(*corners, camera=(0, 0), zoom=1.0, light=0.0):
    """uint8 [240, 320, 3] with one square for each upper left corner (x, y); the camera moves all of it."""
    scene = BACKGROUND.copy()
    for square, (x, y) in zip(SQUARES, corners):
        shift = np.float32([[1, 0, x + 100], [0, 1, y + 100]])
        warped = cv2.warpAffine(square, shift, scene.shape[::-1])
        cover = cv2.warpAffine(np.ones_like(square), shift, scene.shape[::-1])
        scene = scene * (1 - cover) + warped * cover
    view = np.float32([[zoom, 0, -100 * zoom - camera[0]], [0, zoom, -100 * zoom - camera[1]]])
    grey = cv2.warpAffine(scene, view, (WIDTH, HEIGHT)) + light
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def box_at(x, y, side=SIDE):
    return (x, y, x + side, y + side)


def found(*corners, labels=("cube", "vial"), score=0.9):
    return [Detection(box_at(*corner), label, score) for label, corner in zip(labels, corners)]


def test_boxes_follow_objects_over_a_background_that_stays():
    tracker = Tracker()
    first = tracker.update_keyframe(picture((40, 60), (220, 100)), found((40, 60), (220, 100)))
    assert [track.track_id for track in first] == ["1", "2"]
    for step in range(1, 11):
        places = (40 + 7 * step, 60 + 2 * step), (220 - 4 * step, 100 - 3 * step)
        tracks = tracker.carry(picture(*places))
        for track, place in zip(tracks, places, strict=True):
            assert iou(track.box, box_at(*place)) > 0.9
    assert [(track.track_id, track.label, track.age) for track in tracks] == [("1", "cube", 10), ("2", "vial", 10)]


def test_boxes_follow_the_camera():
    tracker = Tracker()
    tracker.update_keyframe(picture((130, 90)), found((130, 90)))
    for step in range(1, 9):
        camera = (5 * step, -4 * step)
        (track,) = tracker.carry(picture((130, 90), camera=camera, light=step))
    assert iou(track.box, box_at(130 - 40, 90 + 32)) > 0.9


def test_boxes_grow_with_what_they_hold():
    tracker = Tracker()
    tracker.update_keyframe(picture((100, 80)), found((100, 80)))
    for step in range(1, 11):
        (track,) = tracker.carry(picture((100, 80), zoom=1.03**step))
    zoom = 1.03**10
    assert iou(track.box, (100 * zoom, 80 * zoom, (100 + SIDE) * zoom, (80 + SIDE) * zoom)) > 0.85


def test_a_box_at_rest_stays():
    tracker = Tracker()
    tracker.update_keyframe(picture((100, 80)), found((100, 80)))
    for _ in range(10):
        (track,) = tracker.carry(picture((100, 80)))
    np.testing.assert_allclose(track.box, box_at(100, 80), atol=0.2)
    assert track.visibility > 0.9


def test_score_decays_with_age_and_a_keyframe_renews_it():
    tracker = Tracker(decay=0.9)
    frame = picture((100, 80))
    tracker.update_keyframe(frame, found((100, 80), score=0.8))
    (track,) = tracker.carry(frame)
    (track,) = tracker.carry(frame)
    assert track.score == pytest.approx(0.8 * 0.9**2)
    (track,) = tracker.update_keyframe(frame, found((102, 81), score=0.7))
    assert (track.track_id, track.age, track.score, track.visibility) == ("1", 0, 0.7, 1.0)
    assert track.box == box_at(102, 81)


def test_a_track_too_old_is_dropped():
    tracker = Tracker(max_age=3)
    frame = picture((100, 80))
    tracker.update_keyframe(frame, found((100, 80)))
    assert [len(tracker.carry(frame)) for _ in range(5)] == [1, 1, 1, 0, 0]


def test_ids_hold_over_keyframes_whatever_the_order_of_detections():
    tracker, seen = Tracker(), []
    for step in range(6):
        places = (40 + 20 * step, 60), (220 - 20 * step, 150)
        detections = found(*places, labels=("cube", "cube"))
        tracks = tracker.update_keyframe(picture(*places), detections[:: 1 if step % 2 else -1])
        seen.append({track.box[1]: track.track_id for track in tracks})
    assert all(ids == seen[0] and len(ids) == 2 for ids in seen)


def test_a_near_miss_keeps_its_id_and_a_far_one_does_not():
    """On a blank frame nothing carries the boxes: the detections alone must do."""
    tracker, blank = Tracker(), np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    ids = []
    for corner in ((40, 60), (40 + SIDE, 60), (220, 150)):
        ids += [track.track_id for track in tracker.update_keyframe(blank, found(corner))]
    assert ids == ["1", "1", "2"]


def test_another_label_is_another_track():
    tracker, frame = Tracker(), picture((100, 80))
    tracker.update_keyframe(frame, found((100, 80), labels=("red beaker",)))
    (track,) = tracker.update_keyframe(frame, found((100, 80), labels=("Red  Beaker",)))
    assert track.track_id == "1"
    (track,) = tracker.update_keyframe(frame, found((100, 80), labels=("blue cube",)))
    assert (track.track_id, track.label) == ("2", "blue cube")


def test_a_missed_track_hides_and_gets_its_id_back():
    tracker, frame = Tracker(max_missed=2), picture((100, 80))
    tracker.update_keyframe(frame, found((100, 80)))
    assert tracker.update_keyframe(frame, []) == []
    assert tracker.carry(frame) == []
    assert [track.track_id for track in tracker.update_keyframe(frame, found((100, 80)))] == ["1"]
    for _ in range(3):
        tracker.update_keyframe(frame, [])
    assert [track.track_id for track in tracker.update_keyframe(frame, found((100, 80)))] == ["2"]


def test_boxes_are_clipped_at_the_edge_and_lost_beyond_it():
    tracker = Tracker()
    start = WIDTH - SIDE - 20
    tracker.update_keyframe(picture((start, 90)), found((start, 90)))
    seen = []
    for step in range(1, 14):
        tracks = tracker.carry(picture((start + 6 * step, 90)))
        seen.append(len(tracks))
        for track in tracks:
            assert track.box[0] < track.box[2] <= WIDTH
        if 20 < 6 * step < 48 and tracks:
            assert tracks[0].visibility < 1
    assert seen[0] == 1
    assert seen[-1] == 0
    assert sorted(seen, reverse=True) == seen


def test_a_box_on_a_blank_wall_goes_stale():
    tracker, blank = Tracker(max_lost_steps=2), np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    tracker.update_keyframe(blank, found((100, 80)))
    (track,) = tracker.carry(blank)
    assert (track.box, track.visibility) == (box_at(100, 80), 0.0)
    assert [len(tracker.carry(blank)) for _ in range(2)] == [1, 0]


def test_a_box_without_corners_goes_along_with_its_surroundings():
    def wall(shift):
        grey = BACKGROUND[100 : 100 + HEIGHT, 100 - shift : 100 - shift + WIDTH].copy()
        grey[80:140, 100 + shift : 160 + shift] = 90
        return np.clip(grey, 0, 255).astype(np.uint8)

    (motion,) = box_motions(wall(0), wall(6), [(110, 90, 150, 130)])
    assert motion.support == 0
    assert (motion.dx, motion.dy) == pytest.approx((6, 0), abs=0.3)


def test_an_object_moves_its_box_though_most_corners_in_it_are_background():
    before, after = (picture(corner)[..., 0] for corner in ((100, 80), (106, 77)))
    (motion,) = box_motions(before, after, [(80, 60, 168, 148)])  # the square is 30% of this
    assert (motion.dx, motion.dy) == pytest.approx((6, -3), abs=0.3)
    assert motion.support < 0.7


def test_corners_that_get_covered_do_not_count():
    before, after = (picture((x, 80))[..., 0].copy() for x in (100, 104))
    after[80:128, 130:170] = texture(9, 48, 40, 120)
    (motion,) = box_motions(before, after, [box_at(100, 80)])
    assert (motion.dx, motion.dy) == pytest.approx((4, 0), abs=1.0)
    assert 0.2 < motion.support < 0.6


def test_an_object_that_vanishes_takes_no_box_away():
    before = picture((100, 80))[..., 0]
    for seed in range(9, 13):
        after = before.copy()
        after[80:128, 100:148] = texture(seed, 48, 48, 120)
        (motion,) = box_motions(before, after, [box_at(100, 80)])
        assert (motion.dx, motion.dy) == pytest.approx((0, 0), abs=0.1)
        assert motion.support == 0


def test_a_stamp_that_goes_back_starts_anew_without_reusing_ids():
    tracker, frame = Tracker(), picture((100, 80))
    tracker.update_keyframe(frame, found((100, 80)), stamp=1_000)
    assert len(tracker.carry(frame, stamp=1_000)) == 1
    assert tracker.carry(frame, stamp=999) == []
    assert tracker.resets == 1
    (track,) = tracker.update_keyframe(frame, found((100, 80)), stamp=1_001)
    assert track.track_id == "2"


def test_another_frame_size_starts_anew():
    tracker, frame = Tracker(), picture((100, 80))
    tracker.update_keyframe(frame, found((100, 80)))
    assert tracker.carry(frame[:200]) == []
    assert tracker.resets == 1


def test_large_frames_are_tracked_in_their_own_pixels():
    tracker = Tracker()
    grow = 6
    frames = [cv2.resize(picture((100 + 5 * step, 80)), None, fx=grow, fy=grow) for step in range(4)]
    box = tuple(grow * value for value in box_at(100, 80))
    tracker.update_keyframe(frames[0], [Detection(box, "cube", 0.9)])
    for frame in frames[1:]:
        (track,) = tracker.carry(frame)
    assert iou(track.box, (115 * grow, 80 * grow, 163 * grow, 128 * grow)) > 0.9


def test_a_tracker_that_has_seen_nothing_carries_nothing():
    tracker = Tracker()
    assert tracker.carry(picture()) == []
    assert tracker.tracks == []


def test_a_grey_buffer_that_is_reused_is_not_mistaken_for_the_last_frame():
    tracker = Tracker()
    buffer = picture((100, 80))[..., 0].copy()
    tracker.update_keyframe(buffer, found((100, 80)))
    buffer[:] = picture((110, 80))[..., 0]
    (track,) = tracker.carry(buffer)
    assert iou(track.box, box_at(110, 80)) > 0.9


@pytest.mark.parametrize(
    "image",
    [np.zeros((0, 0, 3), np.uint8), np.zeros((4, 4, 3), np.uint16), np.zeros((4, 4, 4), np.uint8),
     np.zeros(9, np.uint8)],
)  # fmt: skip
def test_bad_frames_are_refused_and_tracking_goes_on(image):
    tracker, frame = Tracker(), picture((100, 80))
    tracker.update_keyframe(frame, found((100, 80)))
    with pytest.raises(ValueError, match="image: got"):
        tracker.carry(image)
    assert len(tracker.carry(frame)) == 1


@pytest.mark.parametrize(
    "detection",
    [Detection((5, 5, 1, 1), "cube", 0.5), Detection((400, 0, 450, 50), "cube", 0.5),
     Detection((math.nan, 0, 9, 9), "cube", 0.5), Detection((0, 0, 9, 9), "cube", 1.5),
     Detection((0, 0, 9, 9), "cube", math.nan), Detection((0, 0, 9, 9), None, 0.5),
     Detection((0, 0, 1, 9), "cube", 0.5)],
)  # fmt: skip
def test_a_bad_detection_is_named_and_changes_nothing(detection):
    tracker, frame = Tracker(), picture((100, 80))
    before = tracker.update_keyframe(frame, found((100, 80)), stamp=5)
    with pytest.raises(ValueError, match=r"detections\[1\]"):
        tracker.update_keyframe(frame, [*found((100, 80)), detection], stamp=1)
    assert tracker.tracks == before
    assert tracker.resets == 0


@pytest.mark.parametrize(
    "setting", [{"min_iou": 0}, {"decay": 1.5}, {"min_visible": math.nan}, {"max_age": -1}, {"max_missed": -1}]
)
def test_settings_out_of_range_are_refused(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"{name}: got"):
        Tracker(**setting)


def test_tiny_frames_do_no_harm():
    tracker, tiny = Tracker(), np.zeros((4, 4, 3), np.uint8)
    tracker.update_keyframe(tiny, [Detection((0, 0, 4, 4), "cube", 0.5)])
    assert len(tracker.carry(tiny)) == 1

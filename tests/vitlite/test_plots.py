"""The figures show the data they are given, and refuse what they cannot show."""

from io import BytesIO

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from vitlite import plots


@pytest.fixture(autouse=True)
def _style():
    with plt.rc_context():
        plots.use_style()
        yield
    assert plt.get_fignums() == [], "a figure left open would show twice in a notebook"


@pytest.fixture
def photos() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 8, 12), generator=torch.manual_seed(0), dtype=torch.uint8)


def luminance(colour: str) -> float:
    return float(np.dot(matplotlib.colors.to_rgb(colour), (0.299, 0.587, 0.114)))


def drawn(fig: Figure, index: int = 0) -> np.ndarray:
    """The data of the first picture in one axes."""
    return np.asarray(fig.axes[index].images[0].get_array())


def bar_label(fig: Figure) -> str:
    bar = fig.axes[-1]
    return bar.get_xlabel() or bar.get_ylabel()


EVERY_KIND = {
    "image_grid": lambda: plots.image_grid(torch.rand(3, 1, 8, 8), ["a", "b", "c"], title="t"),
    "patch_grid": lambda: plots.patch_grid(torch.rand(3, 8, 8), 4, numbers=True, title="t"),
    "heatmaps": lambda: plots.heatmaps(torch.rand(7, 4, 4), list("abcdefg"), label="weight", title="t"),
    "matrix": lambda: plots.matrix(torch.rand(3, 4), xlabel="key", ylabel="query", label="weight", title="t"),
    "lines": lambda: plots.lines({"a": ([1, 2], [3, 4]), "b": ([1, 2], [5, 6])}, "x", "y", title="t"),
    "bars": lambda: plots.bars({"a": 1, "b": 2}, "y", title="t"),
    "overlays": lambda: plots.overlays(
        torch.rand(2, 3, 8, 8), {"a": torch.rand(2, 4, 4)}, torch.eye(8).expand(2, 8, 8), title="t"
    ),
    "filter_tiles": lambda: plots.filter_tiles({"a": torch.randn(20, 3, 4, 4)}, title="t"),
    "similarity_grid": lambda: plots.similarity_grid(torch.rand(14, 14, 14, 14), title="t"),
    "head_maps": lambda: plots.head_maps(torch.rand(2, 3, 4, 6), title="t"),
    "distance_scatter": lambda: plots.distance_scatter({"a": torch.rand(3, 4)}, baseline=0.5, title="t"),
    "dots": lambda: plots.dots({"a": ([1, 2], [3, 4])}, "x", "y", title="t"),
    "confusion": lambda: plots.confusion(torch.eye(3), ["cat", "dog", "frog"], title="t"),
    "history": lambda: plots.history({"step": [1, 2], "loss": [2.0, 1.0]}, title="t"),
}


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_figure_is_drawn_without_a_warning_and_fits_a_page(kind):
    fig = EVERY_KIND[kind]()
    picture = BytesIO()
    fig.savefig(picture)
    assert plt.imread(BytesIO(picture.getvalue()))[..., :3].std() > 0.01, "nothing is drawn"
    assert fig.get_figwidth() <= plots.WIDEST
    assert fig.get_suptitle() == "t"


def test_a_long_title_wraps_to_the_width_and_keeps_sizes_together():
    fig = plots.lines({"a": ([0, 1], [0, 1])}, "x", "y", title="An image of 32 × 32 pixels " * 4)
    text = fig.get_suptitle()
    assert len(text.splitlines()) == 2
    assert text.count("32\u00a0×\u00a032") == 4
    fig.draw_without_rendering()
    assert fig._suptitle.get_window_extent().width < fig.bbox.width


def test_lines_and_markers_differ_so_that_a_figure_works_in_grey():
    looks = list(plt.rcParams["axes.prop_cycle"])
    assert looks[0]["color"] == "#0072B2"
    for key in ("color", "linestyle", "marker"):
        assert len({str(look[key]) for look in looks}) == len(looks)
    assert all(luminance(look["color"]) < 0.75 for look in looks), "a colour this light vanishes on white"


class TestImages:
    def test_each_image_has_its_axes_title_and_pixels(self, photos):
        fig = plots.image_grid(photos, titles=list("abcde"), columns=2)
        assert [ax.get_title() for ax in fig.axes] == list("abcde")
        for index in range(5):
            np.testing.assert_allclose(drawn(fig, index), photos[index].permute(1, 2, 0) / 255)
        assert fig.axes[0].get_subplotspec().get_gridspec().get_geometry() == (3, 2)

    def test_both_layouts_floats_arrays_and_lists_show_the_same(self, photos):
        floats = photos.float() / 255
        same = [photos.permute(0, 2, 3, 1), floats, floats.numpy(), list(photos), floats.bfloat16()]
        expected = drawn(plots.image_grid(photos))
        for images in same:
            np.testing.assert_allclose(drawn(plots.image_grid(images)), expected, atol=4e-3)

    def test_small_images_are_drawn_pixel_by_pixel(self):
        small = plots.image_grid(torch.rand(1, 3, 32, 32)).axes[0].images[0]
        large = plots.image_grid(torch.rand(1, 3, 224, 224)).axes[0].images[0]
        assert small.get_interpolation() == "nearest"
        assert large.get_interpolation() != "nearest"

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (torch.rand(3, 8, 8), r"shape \(3, 8, 8\), expected \[N, C, H, W\].*image\[None\]"),
            (torch.rand(2, 4, 8, 8), "1 or 3 channels"),
            (torch.randn(2, 3, 8, 8) * 3, "undo the normalisation"),
            (torch.full((1, 3, 8, 8), torch.nan), "undo the normalisation"),
            (torch.rand(0, 3, 8, 8), r"shape \(0, 3, 8, 8\)"),
        ],
    )
    def test_what_is_no_batch_of_images_is_refused(self, images, message):
        with pytest.raises(ValueError, match=message):
            plots.image_grid(images)

    def test_titles_must_be_one_an_image(self, photos):
        with pytest.raises(ValueError, match="titles has 2 entries for 5 pictures"):
            plots.image_grid(photos, titles=["a", "b"])


class TestPatches:
    def test_the_patches_stand_apart_and_hold_the_image(self, photos):
        fig = plots.patch_grid(photos[0], 4)
        image = photos[0].permute(1, 2, 0).numpy() / 255
        whole, apart = drawn(fig, 0), drawn(fig, 1)
        np.testing.assert_allclose(whole, image)
        assert apart.shape == (8 + 1, 12 + 2, 3)  # gaps of one pixel between 2 × 3 patches
        np.testing.assert_allclose(apart[5:9, 10:14], image[4:8, 8:12])
        assert (apart[4] == 1).all()

    def test_numbers_run_row_by_row_from_one(self, photos):
        fig = plots.patch_grid(photos[0], (4, 6), numbers=True)
        texts = fig.axes[1].texts
        assert [text.get_text() for text in texts] == ["1", "2", "3", "4"]
        x, y = texts[2].get_position()
        assert x < 6
        assert y > 4
        assert not plots.patch_grid(photos[0], 4).axes[1].texts

    @pytest.mark.parametrize(("patch_size", "odd"), [(3, 8), ((4, 5), 12)])
    def test_a_patch_that_does_not_divide_the_image_is_named(self, photos, patch_size, odd):
        with pytest.raises(ValueError, match=f"image is 8×12, patch size is .*: {odd} is not a multiple of"):
            plots.patch_grid(photos[0], patch_size)
        with pytest.raises(ValueError, match="patch_size is 0; it must be at least 1 pixel"):
            plots.patch_grid(photos[0], 0)

    def test_a_batch_is_refused(self, photos):
        with pytest.raises(ValueError, match="expected one image"):
            plots.patch_grid(photos, 4)


class TestHeatmaps:
    def test_maps_share_one_scale_and_one_labelled_bar(self):
        maps = torch.stack([torch.full((4, 4), 0.2), torch.full((4, 4), 0.6)])
        fig = plots.heatmaps(maps, ["low", "high"], label="attention weight")
        assert len(fig.axes) == 3
        for index in (0, 1):
            np.testing.assert_allclose(drawn(fig, index), maps[index])
            assert fig.axes[index].images[0].get_clim() == pytest.approx((0.2, 0.6))
        assert bar_label(fig) == "attention weight"

    def test_limits_can_be_given(self):
        fig = plots.heatmaps(torch.rand(2, 4, 4), vmin=-1, vmax=1)
        assert fig.axes[1].images[0].get_clim() == (-1, 1)

    def test_one_bare_map_is_refused(self):
        with pytest.raises(ValueError, match=r"maps has shape \(4, 4\).*map\[None\]"):
            plots.heatmaps(torch.rand(4, 4))


class TestMatrix:
    def test_values_and_names_stand_where_they_belong(self):
        values = torch.tensor([[0.1, 0.9], [0.25, 0.75], [0.5, 0.5]])
        fig = plots.matrix(values, list("abc"), ["x", "y"], "key", "query", annotate=True)
        ax = fig.axes[0]
        np.testing.assert_allclose(drawn(fig), values)
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("key", "query")
        assert [tick.get_text() for tick in ax.get_yticklabels()] == list("abc")
        written = {text.get_position(): text.get_text() for text in ax.texts}
        assert written[(1, 0)] == "0.90"
        assert written[(0, 1)] == "0.25"

    def test_text_contrasts_with_its_cell(self):
        texts = plots.matrix([[0.0, 1.0]], annotate=True).axes[0].texts
        assert [text.get_color() for text in texts] == ["white", "black"]

    def test_there_is_a_colour_bar_unless_the_values_are_written(self):
        assert bar_label(plots.matrix(torch.rand(5, 5), label="attention weight")) == "attention weight"
        assert len(plots.matrix(torch.rand(5, 5), annotate=True).axes) == 1
        assert len(plots.matrix(torch.rand(5, 5), annotate=True, label="weight").axes) == 2

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"values": torch.rand(2, 3, 3)}, r"values has shape \(2, 3, 3\)"),
            ({"values": torch.rand(2, 3), "rows": ["a"]}, "rows has 1 entries for 2 rows"),
            ({"values": torch.rand(2, 3), "columns": ["a"]}, "columns has 1 entries for 3 columns"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            plots.matrix(**arguments)


class TestLines:
    def test_curves_carry_their_data_labels_and_different_looks(self):
        series = {
            "pixels": ([8, 16, 32], [1, 16, 256]),
            "patches": (torch.tensor([8, 16]), torch.tensor([1, 4])),
        }
        fig = plots.lines(series, "image side (pixels)", "cost (GFLOP)", logx=True, logy=True)
        ax = fig.axes[0]
        pixels, patches = ax.lines
        np.testing.assert_allclose(pixels.get_xydata(), [[8, 1], [16, 16], [32, 256]])
        np.testing.assert_allclose(patches.get_xydata(), [[8, 1], [16, 4]])
        assert pixels.get_linestyle() != patches.get_linestyle()
        assert pixels.get_marker() != patches.get_marker()
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["pixels", "patches"]
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("image side (pixels)", "cost (GFLOP)")

    def test_a_logarithmic_axis_names_the_few_values_measured(self):
        ax = plots.lines({"a": ([8, 16, 2048], [1, 2, 3])}, "x", "y", logx=True).axes[0]
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["8", "16", "2,048"]

    def test_values_too_close_to_be_named_side_by_side_leave_the_ticks_to_the_axis(self):
        ax = plots.lines({"a": ([100, 1_050, 1_100], [1, 2, 3])}, "x", "y", logx=True).axes[0]
        assert 1_050 not in ax.get_xticks()

    def test_a_band_spans_low_to_high(self):
        ax = plots.lines({"a": ([0, 1], [1, 2], [0.5, 1.5], [3, 4])}, "x", "y").axes[0]
        band = ax.collections[0].get_paths()[0].vertices
        assert (band[:, 1].min(), band[:, 1].max()) == (0.5, 4)
        assert ax.get_legend() is None

    def test_a_long_curve_is_marked_at_some_points_only(self):
        x = np.arange(500)
        first, second = plots.lines({"a": (x, x), "b": (x, x)}, "x", "y").axes[0].lines
        assert first.get_markevery()[1] == 50
        assert first.get_markevery() != second.get_markevery()
        assert plots.lines({"a": (x[:9], x[:9])}, "x", "y").axes[0].lines[0].get_markevery() is None

    @pytest.mark.parametrize(
        ("series", "message"),
        [
            ({}, "series is empty"),
            ({"run": ([1, 2, 3], [1, 2])}, r"series 'run' has parts of shapes \(3,\), \(2,\)"),
            ({"run": ([1], [1], [1])}, "series 'run' has 3 parts"),
            ({"run": (torch.rand(2, 2), torch.rand(2, 2))}, "expected 1-D"),
        ],
    )
    def test_misshapen_series_are_named(self, series, message):
        with pytest.raises(ValueError, match=message):
            plots.lines(series, "x", "y")


class TestBars:
    def test_each_bar_has_its_height_name_and_number(self):
        fig = plots.bars({"ViT": 0.75, "ResNet": torch.tensor(0.5)}, "accuracy (fraction)")
        ax = fig.axes[0]
        assert [bar.get_height() for bar in ax.patches] == [0.75, 0.5]
        assert [text.get_text() for text in ax.texts] == ["0.750", "0.500"]
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["ViT", "ResNet"]

    @pytest.mark.parametrize(("values", "written"), [
        ([86567656], ["86,567,656"]), ([69.0, 69.4, 0.0123], ["69.0", "69.4", "0.0123"]),
        ([1.59, 0.49], ["1.59", "0.49"]), ([2e-6, 1.25e-7], ["2e-06", "1.25e-07"]), ([3.0, 12.0], ["3", "12"]),
        ([100.0, 99.5], ["100.0", "99.5"]), ([1.5, np.nan], ["1.50", ""]), ([np.nan], [""]),
    ])
    def test_numbers_beside_each_other_look_alike(self, values, written):
        ax = plots.bars(dict(zip("abc", values, strict=False)), "y").axes[0]
        assert [text.get_text() for text in ax.texts] == written

    def test_error_bars_reach_their_values(self):
        ax = plots.bars({"a": 3.0, "b": 2.0}, "y", errors={"b": 0.5, "a": 1.0}).axes[0]
        segments = ax.collections[0].get_segments()
        np.testing.assert_allclose([segment[:, 1] for segment in segments], [[2, 4], [1.5, 2.5]])

    def test_errors_must_name_the_same_bars(self):
        with pytest.raises(ValueError, match=r"errors has the labels \['c'\], values has \['a'\]"):
            plots.bars({"a": 1}, "y", errors={"c": 1})
        with pytest.raises(ValueError, match="values is empty"):
            plots.bars({}, "y")


class TestInside:
    """The figures for what ``vitlite.analysis`` finds."""

    def test_maps_cover_the_image_as_shares_of_their_peak(self, photos):
        maps = torch.tensor([[[0.0, 2.0], [1.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
        fig = plots.overlays(photos[:1], {"head 1": maps[:1], "head 2": maps[1:]})
        assert [ax.get_title() for ax in fig.axes[:3]] == ["image", "head 1", "head 2"]
        grey, layer = fig.axes[1].images
        np.testing.assert_allclose(layer.get_array(), [[0, 0.5], [0.25, 1]])
        assert layer.get_extent() == list(grey.get_extent()) or tuple(layer.get_extent()) == grey.get_extent()
        assert np.isfinite(fig.axes[2].images[1].get_array()).all(), "an empty map is drawn empty"
        assert "largest" in bar_label(fig)

    def test_filters_are_tiles_with_grey_for_zero_each_scaled_for_itself(self):
        tiles = torch.zeros(3, 3, 4, 4)
        tiles[0, 0, 0, 0], tiles[1, 2, 3, 3] = 5, -0.1  # red at the top left, and less blue at the bottom right
        fig = plots.filter_tiles({"before": tiles, "after": tiles[:2, :1]}, columns=2)
        assert [ax.get_title(loc="left") for ax in fig.axes] == ["before", "after"]
        picture = drawn(fig)
        assert picture.shape == (2 * 4 + 1, 2 * 4 + 1, 3)
        assert picture[0, 0].tolist() == [1, 0.5, 0.5]
        assert picture[3, 8].tolist() == [0.5, 0.5, 0]
        assert (picture[5:, :4] == 0.5).all(), "a filter of zeros is grey"
        assert (picture[4] == 1).all(), "white between the tiles"
        assert (picture[5:, 5:] == 1).all(), "and where there is none"
        assert drawn(fig, 1).shape == (4, 9, 3)

    def test_each_patch_has_its_map_in_its_place(self):
        similarity = torch.linspace(-1, 1, 2 * 3 * 2 * 3).view(2, 3, 2, 3)
        fig = plots.similarity_grid(similarity)
        canvas = drawn(fig)
        assert canvas.shape == (2 * 2 + 1, 3 * 3 + 2)
        np.testing.assert_allclose(canvas[3:5, 4:7], similarity[1, 1])
        assert np.isnan(np.ma.filled(canvas, np.nan)[2]).all()
        ax = fig.axes[0]
        assert ax.images[0].get_clim() == (-1, 1)
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "3"]
        assert list(ax.get_yticks()) == [0.5, 3.5]
        assert bar_label(fig) == "cosine similarity"

    def test_a_large_grid_names_some_of_its_rows_only(self):
        labels = plots.similarity_grid(torch.rand(2, 40, 2, 40)).axes[0].get_xticklabels()
        assert [tick.get_text() for tick in labels][:3] == ["1", "4", "7"]

    def test_all_heads_are_shown_each_as_a_share_of_its_peak(self):
        maps = torch.zeros(2, 3, 2, 2)
        maps[0, 1], maps[1, 2] = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 1e-3
        fig = plots.head_maps(maps)
        canvas = drawn(fig)
        np.testing.assert_allclose(canvas[:2, 3:5], [[0.25, 0.5], [0.75, 1]])
        assert (canvas[3:, 6:] == 1).all()
        assert (canvas[:2, :2] == 0).all(), "an empty map is drawn empty"
        assert (fig.axes[0].get_xlabel(), fig.axes[0].get_ylabel()) == ("head", "layer")

    def test_images_stand_row_by_row_with_their_maps_and_outlines(self, photos):
        maps = {"rollout": torch.rand(2, 4, 4), "last layer": torch.rand(2, 8, 12)}
        masks = torch.zeros(2, 8, 12)
        masks[:, 2:5, 3:8] = 1
        fig = plots.overlays(photos[:2], maps, masks)
        assert [ax.get_title() for ax in fig.axes[:6]] == ["image", "rollout", "last layer", "", "", ""]
        np.testing.assert_allclose(drawn(fig, 3), photos[1].permute(1, 2, 0) / 255)
        top = fig.axes[5].images[1]
        np.testing.assert_allclose(top.get_array(), maps["last layer"][1] / maps["last layer"][1].max())
        assert tuple(top.get_extent()) == tuple(fig.axes[5].images[0].get_extent())
        for ax in fig.axes[:6]:
            edge = np.concatenate([path.vertices for path in ax.collections[-1].get_paths()])
            assert (edge.min(axis=0).tolist(), edge.max(axis=0).tolist()) == ([2.5, 1.5], [7.5, 4.5])
        assert not plots.overlays(photos[:2], maps).axes[0].collections

    def test_every_head_is_a_dot_at_its_layer(self):
        distances = torch.rand(3, 4)
        fig = plots.distance_scatter({"ViT": distances, "hybrid": distances[:2] / 2}, baseline=0.5)
        ax = fig.axes[0]
        first, second, line = ax.lines
        np.testing.assert_allclose(first.get_ydata(), distances.flatten())
        assert np.unique(first.get_xdata().round()).tolist() == [1, 2, 3]
        assert len(second.get_xdata()) == 8
        assert not set(first.get_xdata()) & set(second.get_xdata()), "side by side"
        assert (first.get_marker(), first.get_color()) != (second.get_marker(), second.get_color())
        assert set(line.get_ydata()) == {0.5}
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["ViT", "hybrid", "uniform attention"]
        assert plots.distance_scatter({"ViT": distances}).axes[0].lines[0].get_xdata()[0] == 1

    def test_dots_are_not_joined(self):
        one, two = plots.dots({"a": ([1, 2], [3, 4]), "b": ([1], [2])}, "x", "y").axes[0].lines
        assert one.get_linestyle() == two.get_linestyle() == "None"
        assert one.get_marker() != two.get_marker()
        np.testing.assert_allclose(one.get_xydata(), [[1, 3], [2, 4]])

    @pytest.mark.parametrize(
        ("draw", "message"),
        [
            (lambda: plots.filter_tiles({}), "series is empty"),
            (lambda: plots.filter_tiles({"a": torch.rand(2, 4, 3, 3)}), "tiles have 4 channels; 1 or 3"),
            (lambda: plots.filter_tiles({"trained": torch.rand(2, 4, 3)}), r"trained has shape \(2, 4, 3\)"),
            (lambda: plots.similarity_grid(torch.rand(4, 4)), r"similarity has shape \(4, 4\)"),
            (lambda: plots.head_maps(torch.rand(4, 4, 4)), r"maps has shape \(4, 4, 4\)"),
            (lambda: plots.head_maps(-torch.rand(2, 2, 4, 4)), "must not be negative"),
            (lambda: plots.distance_scatter({}), "series is empty"),
            (lambda: plots.distance_scatter({"ViT": torch.rand(3)}), r"ViT has shape \(3,\)"),
            (lambda: plots.dots({}, "x", "y"), "series is empty"),
            (lambda: plots.overlays(torch.rand(2, 3, 8, 8), {}), "maps is empty"),
            (
                lambda: plots.overlays(torch.rand(2, 3, 8, 8), {"rollout": torch.rand(3, 4, 4)}),
                "rollout has 3 maps for 2 images",
            ),
            (
                lambda: plots.overlays(torch.rand(2, 3, 8, 8), {"a": torch.rand(2, 4, 4)}, torch.ones(1, 8, 8)),
                "masks has 1 maps for 2 images",
            ),
        ],
    )
    def test_what_cannot_be_drawn_is_refused(self, draw, message):
        with pytest.raises(ValueError, match=message):
            draw()


class TestConfusion:
    def test_cells_show_counts_and_the_share_of_their_row(self):
        counts = torch.tensor([[30, 10], [0, 0]])
        fig = plots.confusion(counts, ["cat", "dog"])
        np.testing.assert_allclose(drawn(fig), [[0.75, 0.25], [0, 0]])
        assert [text.get_text() for text in fig.axes[0].texts] == ["30", "10", "0", "0"]
        assert (fig.axes[0].get_ylabel(), fig.axes[0].get_xlabel()) == ("true class", "predicted class")

    def test_it_must_be_square_and_named(self):
        with pytest.raises(ValueError, match="counts must be square"):
            plots.confusion(torch.ones(2, 3), ["cat", "dog"])
        with pytest.raises(ValueError, match="rows has 1 entries for 2 rows"):
            plots.confusion(torch.ones(2, 2), ["cat"])


class TestHistory:
    RUN = {
        "step": list(range(0, 200)),
        "loss": [2.0, 1.0] * 100,
        "val_step": [100, 200],
        "val_loss": [1.8, 1.4],
        "val_accuracy": [0.25, 0.5],
        "learning_rate": [],
    }

    def test_loss_above_and_accuracy_in_percent_below(self):
        loss, accuracy = plots.history(self.RUN).axes
        raw, mean, validation = loss.lines
        np.testing.assert_allclose(raw.get_ydata(), self.RUN["loss"])
        np.testing.assert_allclose(mean.get_ydata(), 1.5)  # of two or four neighbours
        np.testing.assert_allclose(validation.get_xydata(), [[100, 1.8], [200, 1.4]])
        np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [25, 50])
        assert "%" in accuracy.get_ylabel()
        assert loss.get_xlim() == accuracy.get_xlim()

    def test_the_mean_ends_at_the_last_step(self):
        mean = plots.history(self.RUN).axes[0].lines[1]
        assert mean.get_xdata()[-1] == self.RUN["step"][-1]

    def test_a_run_without_validation_shows_its_loss_alone(self):
        fig = plots.history({"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "val_step": []})
        assert len(fig.axes) == 1
        np.testing.assert_allclose(fig.axes[0].lines[0].get_ydata(), [3, 2, 1])

    def test_missing_or_uneven_lists_are_named(self):
        with pytest.raises(ValueError, match=r"history has no 'loss', only \['step'\]"):
            plots.history({"step": [1]})
        with pytest.raises(ValueError, match="series 'training' has parts of shapes"):
            plots.history({"step": [1, 2], "loss": [1.0]})
        with pytest.raises(ValueError, match="history has no 'val_loss'"):
            plots.history({"step": [1], "loss": [1.0], "val_step": [1], "val_accuracy": [0.5]})


HOSTILE = [r"$\frac{1$", "a $x_1$ b", "5 $", "_hidden", "<b>|</b>"]


@pytest.mark.parametrize("draw", [
    lambda names: plots.confusion(np.eye(5), names),
    lambda names: plots.bars(dict.fromkeys(names, 1.0), ylabel="y"),
    lambda names: plots.lines({name: ([1, 2], [1, 2]) for name in names}, xlabel="x", ylabel="y"),
    lambda names: plots.heatmaps(np.random.rand(5, 4, 4), names),
    lambda names: plots.matrix(np.eye(5), rows=names, columns=names),
    lambda names: plots.filter_tiles({name: np.random.rand(4, 3, 4, 4) for name in names}),
    lambda names: plots.distance_scatter({name: np.random.rand(2, 2) for name in names}, ylabel="y"),
    lambda names: plots.image_grid(np.zeros((5, 8, 8, 3)), titles=names),
    lambda names: plots.dots({name: ([1, 2], [1, 2]) for name in names}, "x", "y"),
    lambda names: plots.overlays(np.zeros((1, 8, 8, 3)), {name: np.ones((1, 2, 2)) for name in names}),
])
def test_a_name_from_data_is_drawn_as_it_is(draw):
    fig = draw(HOSTILE)
    fig.savefig(BytesIO())
    texts = [text for text in fig.findobj(matplotlib.text.Text) if text.get_text()]
    shown = {text._preprocess_math(text.get_text())[0].strip().replace("\n", " ") for text in texts}
    assert {name for name in HOSTILE if name in shown} == set(HOSTILE)
    assert not [text for text in texts if text._preprocess_math(text.get_text())[1]], "none is a formula"

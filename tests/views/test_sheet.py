import io

import torch
from PIL import Image

from saccade.views import parse
from saccade.views.sheet import as_png, deformation_sheet, sheet


def pictures(channels=3):
    return torch.randint(0, 200, (5, channels, 10, 14), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_originals_stand_first_and_gaps_are_white():
    images = pictures()
    page = sheet(images, parse("paper"), seed=0, rows=3, views=4)
    assert page.dtype == torch.uint8
    assert page.shape == (3, 3 * 12 + 2, 5 * 16 + 2 + 6)
    assert page[:, 2:12, 2:16].equal(images[0])
    assert page[:, 26:36, 2:16].equal(images[2])
    assert torch.all(page[:, 12:14] == 255)
    assert torch.all(page[:, :, 16:24] == 255)
    assert not page[:, 2:12, 24:38].equal(page[:, 2:12, 40:54])  # two views of the first picture
    assert page.equal(sheet(images, parse("paper"), seed=0, rows=3, views=4))
    assert not page.equal(sheet(images, parse("paper"), seed=1, rows=3, views=4))


def test_each_deformation_alone_has_a_column():
    images = pictures()
    page = deformation_sheet(images, parse("flip(p=0) grey(p=0)"), rows=2)
    assert page.shape[2] == 3 * 16 + 2 + 6
    assert page[:, 2:12, 24:38].equal(images[0].flip(2))
    grey = page[:, 2:12, 40:54]
    assert grey[0].equal(grey[1])
    assert not grey.equal(images[0])


def test_grey_pictures_and_other_sizes():
    assert sheet(pictures(channels=1), parse("digits"), rows=1, views=1).shape == (3, 14, 40)
    assert sheet(pictures(), parse("crop", size=20), rows=1, views=1).shape == (3, 24, 2 * 22 + 8)


def test_the_file_holds_the_sheet():
    page = sheet(pictures(), parse("paper"), rows=2, views=2)
    with Image.open(io.BytesIO(as_png(page))) as opened:
        assert opened.size == (page.shape[2], page.shape[1])
        assert opened.getpixel((3, 4)) == tuple(page[:, 4, 3].tolist())

"Pictures of every kind that people hand over: modes and depths, orientation, size, and what is no picture."
import base64
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import python_code
from PIL import Image, ImageOps

from mnist_nb.classifier import MNISTClassifier
from mnist_nb.data import load_sample
from mnist_nb.handwriting import prepare_image
from mnist_nb.pictures import to_gray

RAMP = np.arange(60, dtype=np.uint8).reshape(6, 10) * 4


def page(dark=True):
    "A seven of the sample drawn large, away from the middle of a sheet: uint8 `(150, 120)`, gray levels 40 to 220."
    digit = Image.fromarray(load_sample('test').images[0]).resize((84, 84), Image.Resampling.BICUBIC)
    sheet = np.zeros((150, 120))
    sheet[45:129, 15:99] = (np.asarray(digit) / 255 * 4 - 1.5).clip(0, 1)  # with sharp edges, as a pen makes them
    return np.uint8(np.round(40 + 180 * (1 - sheet if dark else sheet)))


@pytest.fixture(scope='module')
def read():
    return MNISTClassifier.pretrained(device='cpu').predict


def as_mode(mode):
    "Gray levels -> a PIL image of a mode."
    return lambda levels: Image.fromarray(levels).convert('RGB').convert(mode)


def with_bits(mode, bits):
    "Gray levels -> a PIL image of a mode with 16 bits or more, whose numbers have so many bits."
    kind = {'I': '<i4', 'F': '<f4', 'I;16B': '>u2'}.get(mode, '<u2')

    def image(levels):
        numbers = np.round(levels / 255 * (2**bits - 1)).astype(kind)
        return Image.frombytes(mode, levels.shape[::-1], numbers.tobytes())
    return image


def with_palette(mode):
    "Gray levels -> an image with a palette that runs from white to black, unlike its numbers."
    def image(levels):
        indices = Image.fromarray(255 - levels)
        if mode == 'PA': indices = Image.merge('LA', [indices, Image.new('L', indices.size, 255)])
        indices.putpalette([255 - i // 3 for i in range(768)])
        assert indices.mode == mode
        return indices
    return image


IMAGES = {  # what Pillow opens -> how to make it of gray levels
    '1': lambda levels: Image.fromarray(levels > 130), 'L': Image.fromarray, 'LA': as_mode('LA'),
    'La': lambda levels: as_mode('LA')(levels).convert('La'), 'P': with_palette('P'), 'PA': with_palette('PA'),
    'RGB': as_mode('RGB'), 'RGBA': as_mode('RGBA'), 'RGBX': as_mode('RGBX'),
    'RGBa': lambda levels: as_mode('RGBA')(levels).convert('RGBa'), 'CMYK': as_mode('CMYK'), 'YCbCr': as_mode('YCbCr'),
    'HSV': as_mode('HSV'), 'LAB': as_mode('LAB'),
    **{f'{mode} with {bits} bits': with_bits(mode, bits) for mode in ('I', 'I;16', 'I;16B', 'I;16L', 'F') for bits in (8, 10, 12, 16)},
    'F with 1 bits': lambda levels: Image.fromarray(np.float32(levels / 255)),
}
FILES = {  # format -> what it holds
    'png': ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', *(f'I;16 with {bits} bits' for bits in (8, 10, 12, 16))],
    'tif': ['1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'LAB', 'I with 12 bits', 'I with 16 bits', 'F with 16 bits',
            'F with 1 bits', *(f'I;16{order} with {bits} bits' for order in ('', 'B') for bits in (8, 10, 12, 16))],
    'jpg': ['L', 'RGB', 'CMYK'], 'gif': ['L', 'P'], 'webp': ['RGB', 'RGBA'],
}
ARRAYS = {  # dtype and the level of white -> how to make it of gray levels
    **{f'{kind} to {white}': lambda levels, kind=kind, white=white: np.round(levels / 255 * white).astype(kind)
       for kind, white in [('uint16', 255), ('uint16', 1023), ('uint16', 4095), ('uint16', 16383), ('uint16', 65535), ('>u2', 4095),
                           ('>u2', 65535), ('int32', 255), ('>i4', 1023), ('int64', 4095), ('uint64', 65535), ('float64', 255),
                           ('float32', 65535), ('float16', 255), ('>f4', 1023)]},
    **{f'{kind} to 1': lambda levels, kind=kind: (levels / 255).astype(kind) for kind in ('float64', '>f8', 'float16')},
    **{f'{kind} of 0 and 1': lambda levels, kind=kind: (levels > 130).astype(kind) for kind in ('bool', 'float32')},
    'three channels': lambda levels: np.stack([levels] * 3, -1), 'one channel': lambda levels: levels[..., None],
    'one channel first': lambda levels: levels[None], 'gray and alpha': lambda levels: np.stack([levels, np.full_like(levels, 255)], -1),
    'lists': lambda levels: levels.tolist(), 'tensor': torch.tensor, 'half tensor': lambda levels: torch.tensor(levels).half() / 255,
    'bfloat16 tensor': lambda levels: torch.tensor(levels).bfloat16(), 'tensor of ToTensor': lambda levels: torch.tensor(levels)[None] / 255,
}


def assert_same_digit(picture, levels, read):
    "A picture is prepared as its gray levels are, and read as the same digit."
    wanted, found = prepare_image(levels), prepare_image(picture)
    assert abs(wanted.astype(int) - found).mean() < 5 and read(found) == read(wanted) == 7


@pytest.mark.parametrize('dark', [True, False], ids=['dark ink', 'light ink'])
@pytest.mark.parametrize('kind', [*IMAGES, *ARRAYS])
def test_every_mode_and_depth_is_the_same_digit(kind, dark, read):
    levels = page(dark)
    assert_same_digit((IMAGES | ARRAYS)[kind](levels), levels, read)


@pytest.mark.parametrize('ending, kind', [(ending, kind) for ending, kinds in FILES.items() for kind in kinds])
def test_every_mode_and_depth_in_a_file_is_the_same_digit(ending, kind, read, tmp_path):
    for dark in True, False:
        IMAGES[kind](page(dark)).save(path := tmp_path / f'digit.{ending}')
        for picture in path, str(path), Image.open(path): assert_same_digit(picture, page(dark), read)


def test_levels_are_kept_and_color_is_weighed():
    exact = RAMP / 255, torch.tensor(RAMP), RAMP.astype(np.uint16) * 257, Image.fromarray(RAMP).convert('RGB'), with_bits('I;16B', 16)(RAMP)
    for same in exact: np.testing.assert_allclose(to_gray(same), RAMP, atol=0.01)
    assert to_gray(Image.fromarray(RAMP > 100)).tolist() == (255.0 * (RAMP > 100)).tolist()
    for colors in np.uint8([[[255, 0, 0], [0, 255, 0]]]), Image.fromarray(np.uint8([[[255, 0, 0], [0, 255, 0]]])):
        np.testing.assert_allclose(to_gray(colors), [[76.245, 149.685]], atol=0.01)


@pytest.mark.parametrize('ending, mode', [('png', 'RGBA'), ('png', 'LA'), ('gif', 'P'), ('png', 'P'), ('webp', 'RGBA'), ('png', 'L'), ('png', 'RGB')])
@pytest.mark.parametrize('ink', [30, 240])
def test_behind_what_is_transparent_lies_paper_of_the_other_shade(ending, mode, ink, tmp_path):
    picture = Image.merge('LA', [Image.new('L', (60, 60), ink), Image.fromarray(np.uint8(np.pad(np.full((30, 9), 255), ((15, 15), (20, 31)))))])
    options = {}
    if mode in ('L', 'RGB', 'P'):  # no alpha: one color, or one place of the palette, counts as transparent
        picture = Image.fromarray(np.uint8(np.where(picture.getchannel('A'), ink, 0))).convert(mode)
        options['transparency'] = (0, 0, 0) if mode == 'RGB' else 0
    elif mode == 'RGBA': picture = picture.convert(mode)
    picture.save(tmp_path / f'ink.{ending}', **options, **({'lossless': True} if ending == 'webp' else {}))
    levels = to_gray(tmp_path / f'ink.{ending}')
    assert (levels[0, 0], levels[30, 24].round()) == (255 if ink == 30 else 0, ink)


def test_a_transparent_corner_gets_the_most_usual_shade():
    rounded = np.dstack([np.full((9, 9), 250), np.full((9, 9), 255)]).astype(np.uint8)
    rounded[4, 2:7, 0], rounded[0, 0] = 10, 0
    assert to_gray(rounded)[0, 0] == pytest.approx(250)
    with pytest.raises(ValueError, match='transparent everywhere'): to_gray(np.zeros((5, 5, 4)))


# ------------------------------------------------------------------------------------- size

MEASURED = '''
import re
from pathlib import Path
from PIL import Image
import scipy.ndimage
from mnist_nb.handwriting import prepare_image; from mnist_nb.pictures import to_gray
peak = lambda: int(re.search('VmHWM: *([0-9]+) kB', Path('/proc/self/status').read_text().replace(chr(9), ' '))[1]) // 1024
before = peak()
CALL
print(peak() - before)
'''  # not `resource.getrusage`: its peak begins with that of the process that started this one


on_linux = pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='reads the peak of memory as Linux tells it')


def memory(call):
    "How much memory a call needs at its peak, in MB, in a Python of its own."
    return int(python_code(MEASURED.replace('CALL', call)))


def scan(mode):
    "A digit on A4 paper, scanned at 600 dpi."
    sheet = Image.new('L', (4960, 7016), 255)
    sheet.paste(Image.fromarray(page()).resize((2400, 3000)).point(lambda level: 255 * (level > 130)), (1200, 900))
    return sheet.convert(mode)


@on_linux
def test_a_large_picture_needs_little_memory(tmp_path):
    Image.new('RGB', (12_000, 9_000), 'white').save(path := tmp_path / 'large.png')
    assert memory(f'assert to_gray({str(path)!r}).shape == (819, 1091)') < 700


@on_linux
def test_a_scan_in_black_and_white_or_with_a_palette_needs_no_more_memory_than_in_color(tmp_path):
    needs = {}
    for mode in 'RGB', '1', 'P':
        scan(mode).save(path := tmp_path / f'{mode}.png', compress_level=1)
        needs[mode] = [memory(f'prepare_image({source})') for source in (repr(str(path)), f'Image.open({str(path)!r})')]
    assert max(needs['RGB']) < 250, needs
    for mode in '1', 'P': assert max(needs[mode]) < min(needs['RGB']), needs


@pytest.mark.parametrize('kind', IMAGES)
def test_a_large_picture_is_the_same_digit(kind, read):
    "Larger than the size from which pictures are reduced strip by strip, the last strip a narrow one."
    levels = np.pad(page().repeat(6, 0).repeat(6, 1), ((0, 1189), (0, 180)), constant_values=220)
    picture = IMAGES[kind](levels)
    assert to_gray(picture).shape == (1045, 450)
    assert_same_digit(picture, levels, read)


# ------------------------------------------------------------------------------------- orientation

TURNS = {  # the value of the EXIF tag -> how an upright picture is stored with it
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}
LARGE = 900, 2100


def phone_photo(path, tag, size=(120, 150)):
    "A photo of an upright digit, stored as a camera stores it that is held otherwise."
    upright, exif = Image.fromarray(page()).resize(size).convert('RGB'), Image.Exif()
    exif[0x0112] = tag
    (upright if TURNS[tag] is None else upright.transpose(TURNS[tag])).save(path, exif=exif, quality=95)
    return upright


@pytest.mark.parametrize('size', [(120, 150), LARGE], ids=['small', 'large'])
@pytest.mark.parametrize('ending', ['jpg', 'png', 'tif', 'webp'])
@pytest.mark.parametrize('tag', TURNS)
def test_a_file_is_turned_once_as_its_tag_says(tag, ending, size, tmp_path):
    upright = phone_photo(path := tmp_path / f'photo.{ending}', tag, size)
    upright = to_gray(upright.reduce(2) if size == LARGE else upright)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for source in path, Image.open(path), ImageOps.exif_transpose(Image.open(path)) if ending != 'tif' else path:
            found = to_gray(source)
            assert found.shape == upright.shape and abs(found - upright).mean() < 3


@pytest.mark.parametrize('tag', [3, 6, 8])
def test_a_photo_that_was_turned_by_hand_is_not_turned_again(tag, tmp_path):
    upright = to_gray(phone_photo(path := tmp_path / 'photo.jpg', tag))
    turned = Image.open(path).rotate({3: 180, 6: -90, 8: 90}[tag], expand=True)
    assert turned.getexif()[0x0112] == tag  # Pillow leaves it there
    with pytest.warns(UserWarning, match=r'read as it stands.*PIL\.ImageOps\.exif_transpose'): found = to_gray(turned)
    assert abs(found - upright).mean() < 3
    with pytest.warns(UserWarning, match='read as it stands'): assert to_gray(Image.open(path).convert('L')).shape == Image.open(path).size[::-1]


def test_a_photo_that_was_turned_in_place_is_not_turned_again(tmp_path):
    upright = to_gray(phone_photo(path := tmp_path / 'photo.jpg', 6))
    photo = Image.open(path)
    try: ImageOps.exif_transpose(photo, in_place=True)
    except TypeError: pytest.skip('an older Pillow')
    assert abs(to_gray(photo) - upright).mean() < 3


# ------------------------------------------------------------------------------------- what is no picture

def png():
    file = io.BytesIO()
    Image.fromarray(page()).save(file, 'PNG')
    return file.getvalue()


TEXT = base64.b64encode(png()).decode()


@pytest.mark.parametrize('text', [TEXT, 'data:image/png;base64,' + TEXT, 'data:image/png;base64,iVBORw0KGgo=', TEXT[:400].replace('/', '_'),
                                  'https://example.org/seven.png', 'a/' * 5000], ids=lambda text: f'{text[:12]}-{len(text)}')
def test_a_text_that_is_no_path_is_refused_in_one_short_sentence(text, read):
    for call in to_gray, prepare_image, read:
        with pytest.raises(ValueError) as error: call(text)
        message = str(error.value)
        assert len(message) < 350 and '\n' not in message and repr(text[:20])[:-1] in message and f'{len(text):,} characters' in message
        assert 'expected the path of a picture' in message and 'PIL.Image.open(io.BytesIO(data))' in message


@pytest.mark.parametrize('content', [png(), bytearray(png()), memoryview(png()), io.BytesIO(png())], ids=lambda content: type(content).__name__)
def test_bytes_are_refused_with_the_way_to_open_them(content):
    for call in to_gray, prepare_image:
        with pytest.raises(TypeError, match='expected a path, PIL image, array or tensor of numbers, got') as error: call(content)
        assert type(content).__name__ in str(error.value) and 'PIL.Image.open(io.BytesIO(data))' in str(error.value) and len(str(error.value)) < 250


@pytest.mark.parametrize('shape', [(2, 60, 80), (3, 60, 80), (4, 60, 80)])
def test_three_gray_pictures_or_one_in_color_is_not_guessed(shape):
    for pixels in np.zeros(shape), np.zeros(shape, np.uint8), torch.zeros(shape), [page()] * shape[0]:
        with pytest.raises(ValueError, match=rf'{shape[0]} gray pictures or one with {shape[0]} channels.*one by one.*np\.moveaxis'): to_gray(pixels)


def test_the_ways_out_of_a_channel_first_picture(read):
    channels = np.stack([page()] * 3)
    for one in np.moveaxis(channels, 0, -1), torch.tensor(channels).movedim(0, -1), channels[0]: assert_same_digit(one, page(), read)


@pytest.mark.parametrize('picture, message', [
    (None, 'NoneType'), ([[1, 2], [3]], 'inhomogeneous'), (np.zeros((4, 1, 28, 28)), r'\(4, 1, 28, 28\); pass the pictures of a batch one by one'),
    (np.zeros(7), r'shape \(7,\)'), (np.zeros((0, 5)), 'empty'), (np.full((4, 4), np.nan), 'NaN'), (np.full((4, 4), -0.4), 'got -0.4 to -0.4'),
    (np.full((4, 4), 70_000), 'got 70000 to 70000; rescale'), (np.linspace(0, 1.02, 64).reshape(8, 8), 'got 0 to 1.02; rescale.*clip'),
    (np.float32([[0, 7.5]]), 'got 0 to 7.5; rescale.*clip'), (np.array([['1', '2']]), 'ndarray of <U1'), (np.ones((5, 5), complex), 'complex128'),
    (Image.new('L', (0, 5)), 'empty'), (Image.new('P', (5, 0)), 'empty'), ([Image.new('P', (60, 80))], 'list of pictures.*one by one'),
    (np.eye(9, dtype=int), 'multiply a mask by 255'), (torch.eye(9).byte(), 'multiply a mask by 255'), (Image.new('L', (9, 9), 1), 'multiply'),
    ('', "no file ''"), ('no_such_file.png', "'no_such_file.png'"), ('.', 'Is a directory')])
def test_what_is_no_picture_is_refused(picture, message):
    with pytest.raises((TypeError, ValueError, OSError), match=message): to_gray(picture)


def test_files_that_are_no_pictures_are_refused(tmp_path):
    (tmp_path / 'text.png').write_text('not a picture')
    with pytest.raises(ValueError, match='text.png. is not a picture that Pillow can read'): to_gray(tmp_path / 'text.png')
    (tmp_path / 'half.png').write_bytes(png()[:len(png()) // 2])
    with pytest.raises(ValueError, match='half.png. is damaged'): to_gray(tmp_path / 'half.png')

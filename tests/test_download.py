"""Downloads against a real local server that misbehaves on purpose.

Small stand-ins for MNIST's four files are served, so neither MNIST nor a network is needed.
"""
import gzip
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST
from torchvision.datasets.utils import extract_archive

from mnist_nb import data, files

TRAIN, TEST = 60, 20  # images in the stand-ins


def idx_gz(array):
    "An array of bytes as a compressed IDX file."
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f'>{array.ndim}I', *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


def stand_ins():
    "File name -> content, with noise for images, which does not compress."
    rng = np.random.default_rng(0)
    names, contents = iter(files.MNIST_FILES), {}
    for n in (TRAIN, TEST):
        contents[next(names)] = idx_gz(rng.integers(0, 256, (n, 28, 28), np.uint8))
        contents[next(names)] = idx_gz((np.arange(n) % 10).astype(np.uint8))
    return contents


FILES = stand_ins()
SUMS = {name: tuple(hashlib.md5(content).hexdigest() for content in (packed, gzip.decompress(packed)))
        for name, packed in FILES.items()}


class Handler(BaseHTTPRequestHandler):
    "The first part of the path says how to behave: /cut/train-images-idx3-ubyte.gz"
    protocol_version = 'HTTP/1.0'

    def log_message(self, *args): pass

    def do_GET(self):
        mood, name = self.path.strip('/').split('/')
        self.server.asked.append((mood, name))
        content = FILES[name]
        if mood in ('403', '404', '503'): return self.send_error(int(mood))
        if mood == 'stall': return self.server.open_end.wait(5)
        if mood == 'hangup': return self.connection.shutdown(socket.SHUT_RDWR)
        if mood == 'html': content = b'<html><body>Welcome to our hotel. Please log in.</body></html>'
        if mood == 'altered': content = content[:100] + bytes([content[100] ^ 1]) + content[101:]
        if mood == 'empty': content = b''
        self.send_response(200)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        if mood in ('cut', 'freeze'): content = content[:len(content) // 2]
        pieces = 40 if mood == 'slow' else 1
        step = max(1, -(-len(content) // pieces))
        try:
            for start in range(0, len(content), step):
                self.wfile.write(content[start:start + step])
                self.wfile.flush()
                if mood == 'slow' and 'images' in name: time.sleep(0.02)
            if mood == 'freeze': self.server.open_end.wait(5)
        except ConnectionError: pass


@pytest.fixture(scope='module')
def server():
    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        server.daemon_threads, server.asked, server.open_end = True, [], threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.open_end.set()
        server.shutdown()


@pytest.fixture
def mirror(server, monkeypatch):
    "A function: mood -> address of the mirror in this mood."
    monkeypatch.setattr(files, 'MNIST_FILES', SUMS)
    monkeypatch.setenv('no_proxy', '*')
    server.asked.clear()
    return lambda mood: f'http://127.0.0.1:{server.server_port}/{mood}/'


def raw(folder): return folder / 'MNIST' / 'raw'


def names_in(folder): return sorted(path.name for path in raw(folder).glob('*'))


def fill(folder):
    "Put the whole stand-ins where downloads go."
    raw(folder).mkdir(parents=True)
    for name, content in FILES.items(): (raw(folder) / name).write_bytes(content)


def check_whole(folder):
    "All four files there, as served, nothing beside them, and readable."
    assert names_in(folder) == sorted(FILES)
    for name, content in FILES.items(): assert (raw(folder) / name).read_bytes() == content
    train, test = (data.load_mnist(split, folder, download=False) for split in ('train', 'test'))
    assert (len(train), len(test), train.name) == (TRAIN, TEST, 'MNIST train')
    assert (train.labels == np.arange(TRAIN) % 10).all()


BAD_MOODS = {'403': 'Forbidden', '404': 'Not Found', '503': 'Service Unavailable', 'stall': 'timed out', 'freeze': 'timed out',
             'hangup': 'closed connection|reset', 'cut': 'more expected', 'html': 'not the published file',
             'altered': 'not the published file', 'empty': 'not the published file'}


def test_a_good_mirror_gives_all_four_files_once(mirror, server, tmp_path):
    assert files.download_mnist(tmp_path, [mirror('good')]) == raw(tmp_path)
    check_whole(tmp_path)
    asked = len(server.asked)
    files.download_mnist(tmp_path, [mirror('good')])
    assert len(server.asked) == asked  # what is there and intact costs no network


@pytest.mark.parametrize('mood', BAD_MOODS)
def test_a_bad_mirror_is_named_leaves_nothing_and_a_retry_works(mirror, tmp_path, mood):
    with pytest.raises(ConnectionError, match=BAD_MOODS[mood]) as told:
        files.download_mnist(tmp_path, [mirror(mood)], timeout=0.2)
    assert 'MNIST_NB_DATA' in str(told.value) and "data='sample'" in str(told.value)
    assert '\n' not in str(told.value) and 'train-images-idx3-ubyte.gz' in str(told.value)
    assert names_in(tmp_path) == []  # nothing under a final name, no temporary file either
    files.download_mnist(tmp_path, [mirror('good')])
    check_whole(tmp_path)


def test_mirror_after_mirror_until_one_is_good(mirror, server, tmp_path):
    moods = ['403', '503', 'stall', 'cut', 'html', 'good']
    files.download_mnist(tmp_path, ['http://127.0.0.1:9/', *map(mirror, moods)], timeout=0.1)
    check_whole(tmp_path)
    first = [mood for mood, name in server.asked if name.startswith('train-images')]
    assert list(dict.fromkeys(first)) == moods


def test_what_a_killed_download_left_goes_when_it_is_old(mirror, tmp_path):
    raw(tmp_path).mkdir(parents=True)
    for name, age in ('.train-images-idx3-ubyte.gz.0a1b2c3d.tmp', 120), ('.train-images-idx3-ubyte.gz.4e5f6a7b.tmp', 1), ('mine', 120):
        (raw(tmp_path) / name).write_bytes(b'half')
        os.utime(raw(tmp_path) / name, (time.time() - age,) * 2)
    files.download_mnist(tmp_path, [mirror('good')])
    assert set(names_in(tmp_path)) - set(FILES) == {'.train-images-idx3-ubyte.gz.4e5f6a7b.tmp', 'mine'}


def test_all_reasons_are_told_when_they_differ(mirror, tmp_path):
    with pytest.raises(ConnectionError, match='gz: HTTP Error 403: Forbidden, what came is not the published file; connect'):
        files.download_mnist(tmp_path, [mirror('403'), mirror('html'), mirror('403')])


@pytest.mark.parametrize('damage', [lambda c: c[:len(c) // 2], lambda c: c[:-20] + b'?' + c[-19:], lambda c: b'',
                                    lambda c: b'<html>log in</html>'], ids=['truncated', 'altered', 'empty', 'html'])
def test_a_damaged_cached_file_is_refused_and_replaced(mirror, server, tmp_path, damage):
    fill(tmp_path)
    victim = raw(tmp_path) / 't10k-images-idx3-ubyte.gz'
    victim.write_bytes(damage(FILES[victim.name]))
    with pytest.raises(ValueError, match='t10k-images-idx3-ubyte.gz is damaged'):
        data.load_mnist('test', tmp_path, download=False)
    with pytest.raises(ConnectionError, match='no mirror gave t10k-images'):
        files.download_mnist(tmp_path, [mirror('403')])
    files.download_mnist(tmp_path, [mirror('good')])
    check_whole(tmp_path)
    assert {name for mood, name in server.asked} == {victim.name}  # the others were not fetched again

@pytest.mark.parametrize('name', ['{}.gz', '{}', '{dotted}', '{dotted}.gz'])
@pytest.mark.parametrize('packed', [True, False], ids=['packed', 'unpacked'])
def test_files_put_there_by_hand_are_read_whatever_their_packing_and_name(mirror, server, tmp_path, name, packed):
    "Packed again, unpacked, unpacked under the name that ends in .gz, with the dot of other unpackers."
    folder = raw(tmp_path)
    folder.mkdir(parents=True)
    for published, content in FILES.items():
        stem = published.removesuffix('.gz')
        again = gzip.decompress(content)
        if packed: again = gzip.compress(again, 1)
        assert again != content
        (folder / name.format(stem, dotted=stem.replace('-idx', '.idx'))).write_bytes(again)
    before = names_in(tmp_path)
    for download in False, True:
        train, test = (data.load_mnist(split, tmp_path, download) for split in ('train', 'test'))
        assert (len(train), len(test)) == (TRAIN, TEST) and (test.labels == np.arange(TEST) % 10).all()
    files.download_mnist(tmp_path, [mirror('403')])
    assert server.asked == [] and names_in(tmp_path) == before


def test_what_torchvision_downloads_and_unpacks_is_read(mirror, server, tmp_path):
    fill(tmp_path)
    for name in FILES:
        extract_archive(raw(tmp_path) / name)
        (raw(tmp_path) / name).unlink()
    theirs = MNIST(tmp_path, train=False)
    ours = data.load_mnist('test', tmp_path, download=False)
    assert (ours.images == theirs.data.numpy()).all() and (ours.labels == theirs.targets.numpy()).all()
    files.download_mnist(tmp_path, [mirror('403')])
    assert server.asked == []


def test_a_folder_under_one_of_the_names_is_no_file(mirror, tmp_path):
    fill(tmp_path)
    (raw(tmp_path) / 'train-images-idx3-ubyte.gz').rename(raw(tmp_path) / 'train-images.idx3-ubyte.gz')
    (raw(tmp_path) / 'train-images-idx3-ubyte').mkdir()  # some unpackers make a folder for each file
    assert len(data.load_mnist('train', tmp_path, download=False)) == TRAIN


@pytest.mark.parametrize('name', ['train-images-idx3-ubyte.gz', 'train-images-idx3-ubyte', 't10k-labels.idx1-ubyte'])
def test_other_data_under_a_name_of_mnist_is_refused_and_never_replaced(mirror, server, tmp_path, monkeypatch, capsys, name):
    "Fashion-MNIST, for one, has the names and shapes of MNIST's files."
    folder, images = raw(tmp_path), 'images' in name
    fill(tmp_path)
    (folder / name.replace('.idx', '-idx').removesuffix('.gz')).with_suffix('.gz').unlink()
    (folder / 'train-labels-idx1-ubyte.gz').unlink(missing_ok=True)  # missing, and not fetched either
    other = idx_gz(np.full((TRAIN, 28, 28) if images else TRAIN, 3, np.uint8))
    (folder / name).write_bytes(other if name.endswith('.gz') else gzip.decompress(other))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    split, told = ('train', r'\(60, 28, 28\)') if images else ('test', r'\(60,\)')
    for call in (lambda: data.load_mnist(split, tmp_path, download=False), lambda: data.load_mnist(split, tmp_path),
                 lambda: files.download_mnist(tmp_path, [mirror('good')])):
        with pytest.raises(ValueError, match=f"{name} holds other data than MNIST's, of shape {told}: it is left as it is"): call()
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before and server.asked == []
    monkeypatch.setenv('MNIST_NB_DATA', str(tmp_path))
    assert len(data.load_data('auto')[0]) == 1437
    out = capsys.readouterr().out
    assert out.startswith('MNIST is not at hand (') and name in out and 'left as it is' in out and out.count('\n') == 1


def test_mnist_beside_other_data_is_found_and_nothing_is_replaced(mirror, server, tmp_path):
    fill(tmp_path)
    other = gzip.decompress(idx_gz(np.zeros((TRAIN, 28, 28), np.uint8)))
    (raw(tmp_path) / 'train-images-idx3-ubyte').write_bytes(other)
    assert data.load_mnist('train', tmp_path).images.any()
    files.download_mnist(tmp_path, [mirror('403')])
    assert (raw(tmp_path) / 'train-images-idx3-ubyte').read_bytes() == other and server.asked == []


def test_a_broken_file_under_another_name_is_no_hindrance(mirror, server, tmp_path):
    fill(tmp_path)
    (raw(tmp_path) / 't10k-images-idx3-ubyte.gz').unlink()
    broken = raw(tmp_path) / 't10k-images.idx3-ubyte'
    broken.write_bytes(b'<html>log in</html>')
    with pytest.raises(ValueError, match='t10k-images.idx3-ubyte is damaged'): data.load_mnist('test', tmp_path, download=False)
    with pytest.raises(ConnectionError, match='t10k-images.idx3-ubyte is damaged, and no mirror gave t10k-images-idx3-ubyte.gz'):
        files.download_mnist(tmp_path, [mirror('403')])
    files.download_mnist(tmp_path, [mirror('good')])
    broken.unlink()
    check_whole(tmp_path)


def test_a_split_that_is_at_hand_needs_no_download_of_the_other(mirror, server, tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'MNIST_MIRRORS', (mirror('403'),))
    fill(tmp_path)
    (raw(tmp_path) / 'train-images-idx3-ubyte.gz').unlink()
    assert len(data.load_mnist('test', tmp_path)) == TEST and server.asked == []
    with pytest.raises(FileNotFoundError, match='train-images-idx3-ubyte.gz is missing.*MNIST_NB_DATA'):
        data.load_mnist('train', tmp_path, download=False)
    with pytest.raises(ConnectionError, match='no mirror gave train-images-idx3-ubyte.gz'): data.load_mnist('train', tmp_path)


def test_a_read_only_folder_with_whole_files_is_fine(mirror, server, tmp_path):
    fill(tmp_path)
    raw(tmp_path).chmod(0o555)
    try:
        files.download_mnist(tmp_path, [mirror('good')])
        check_whole(tmp_path)
    finally: raw(tmp_path).chmod(0o755)
    assert server.asked == []


def test_a_folder_that_takes_no_file_is_said_before_the_download(mirror, server, tmp_path, monkeypatch):
    fill(tmp_path)
    (raw(tmp_path) / 'train-labels-idx1-ubyte.gz').write_bytes(b'short')
    def refuse(*args, **kwargs): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(files, 'open', refuse, raising=False)  # root may write anywhere, so chmod won't do
    with pytest.raises(PermissionError, match='is damaged, and .*cannot write .*labels.*you may not write there.*MNIST_NB_DATA'):
        files.download_mnist(tmp_path, [mirror('good')])
    assert server.asked == []


@pytest.mark.parametrize('mirrors, told', [([], 'no mirror is left to try'), ('no address', 'unknown url type'), ('http://127.0.0.1:9/', 'refused')])
def test_mirrors_that_are_none(tmp_path, mirrors, told):
    with pytest.raises(ConnectionError, match=f'no mirror gave train-images-idx3-ubyte.gz: .*{told}.*MNIST_NB_DATA'):
        files.download_mnist(tmp_path, mirrors)


def test_a_file_or_folder_in_the_way(mirror, server, tmp_path):
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(OSError, match='Not a directory.*file/MNIST.*MNIST_NB_DATA'): files.download_mnist(tmp_path / 'file', [mirror('good')])
    (raw(tmp_path) / 'train-images-idx3-ubyte.gz').mkdir(parents=True)
    with pytest.raises(OSError, match='train-images-idx3-ubyte.gz is a folder'):
        files.download_mnist(tmp_path, [mirror('good'), mirror('good')])
    assert server.asked == []


def test_a_full_disk_is_said_at_once(mirror, server, tmp_path, monkeypatch):
    def full(*args, **kwargs): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='train-images-idx3-ubyte.gz: the disk is full.*MNIST_NB_DATA'):
        files.download_mnist(tmp_path, [mirror('good'), mirror('good')])
    assert names_in(tmp_path) == [] and server.asked == []


def test_auto_says_one_line_and_goes_on(mirror, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('MNIST_NB_DATA', str(tmp_path))
    monkeypatch.setattr(files, 'MNIST_MIRRORS', (mirror('503'), mirror('503')))
    train, test = data.load_data('auto')
    assert (len(train), len(test)) == (1437, 360)
    assert capsys.readouterr().out == ('MNIST is not at hand (no mirror gave train-images-idx3-ubyte.gz: HTTP Error 503: '
                                       'Service Unavailable); going on with the embedded sample of 1,797 digits.\n')
    with pytest.raises(ConnectionError, match='no mirror gave'): data.load_data('mnist')
    monkeypatch.setattr(files, 'MNIST_MIRRORS', (mirror('good'),))
    assert len(data.load_data('auto')[0]) == TRAIN
    assert capsys.readouterr().out == ''


CHILD = '''
import json, sys
from mnist_nb import files
sums, mirror, folder = json.loads(sys.argv[1])
files.MNIST_FILES.clear(); files.MNIST_FILES.update(sums)
print('ready', flush=True); sys.stdin.readline()
files.download_mnist(folder, [mirror])
print('done', flush=True)
'''


def start_child(mirror, folder):
    "A process of its own that downloads when it is given a line."
    env = dict(os.environ, no_proxy='*', TQDM_DISABLE='1', OMP_NUM_THREADS='1')
    return subprocess.Popen([sys.executable, '-c', CHILD, json.dumps([SUMS, mirror, str(folder)])], env=env, text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_two_processes_at_once_end_with_one_good_copy_and_a_kill_with_none(mirror, server, tmp_path):
    both, killed = tmp_path / 'both', tmp_path / 'killed'
    first, second, third = children = [
        start_child(mirror(mood), folder) for mood, folder in (('slow', both), ('slow', both), ('freeze', killed))]
    try:
        for child in children: assert child.stdout.readline() == 'ready\n', child.stderr.read()
        for child in children: child.stdin.write('go\n'); child.stdin.flush()
        while third.poll() is None and ('freeze', 'train-images-idx3-ubyte.gz') not in server.asked: time.sleep(0.01)
        third.kill()  # in the middle of its first file
        third.wait()
        assert names_in(killed) == []
        for child in (first, second): assert child.communicate(timeout=120)[0] == 'done\n'
        check_whole(both)
        fetched = [name for mood, name in server.asked if name == 't10k-images-idx3-ubyte.gz']
        assert len(fetched) == 2
    finally:
        for child in children: child.kill(); child.wait()
    files.download_mnist(killed, [mirror('good')])
    check_whole(killed)


def test_the_table_is_torchvisions():
    assert [(name, packed) for name, (packed, _) in files.MNIST_FILES.items()] == MNIST.resources
    assert set(MNIST.mirrors) <= set(files.MNIST_MIRRORS)


WRONG = [np.zeros(3), np.array(['train', 'test']), torch.zeros(2, 2), ['train'], None, 7, 'validation']


@pytest.mark.parametrize('split', WRONG, ids=repr)
def test_a_wrong_split_is_named(split):
    for load in data.load_mnist, data.load_sample, files.read_mnist:
        with pytest.raises(ValueError, match="split must be 'train' or 'test', got .") as told: load(split)
        assert len(str(told.value)) < 120


@pytest.mark.parametrize('folder', [np.zeros(3), torch.zeros(2, 2), ['here'], 7, 0, False, b'here'], ids=repr)
def test_a_wrong_folder_is_named(folder):
    for call in (lambda: data.load_mnist(folder=folder), lambda: files.read_mnist('test', folder, download=False),
                 lambda: files.download_mnist(folder, [])):
        with pytest.raises(TypeError, match='str.* os.PathLike.* not') as told: call()
        assert '\n' not in str(told.value)


def test_a_home_that_nobody_has_is_a_name_like_any_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='~nobody-here.*is missing'): data.load_mnist('test', '~nobody-here', download=False)
    monkeypatch.setenv('MNIST_NB_DATA', '~nobody-here')
    with pytest.raises(FileNotFoundError, match='~nobody-here.*is missing'): data.load_mnist('test', download=False)
    monkeypatch.setenv('MNIST_NB_DATA', '~/digits')
    assert files.data_dir() == Path.home() / 'digits'
    monkeypatch.delenv('MNIST_NB_DATA')
    assert files.data_dir().name == 'mnist_nb'


@pytest.mark.parametrize('source', [np.zeros(3), torch.zeros(2, 2), np.array(['auto', 'mnist']), 'cifar', ('train', 'test')], ids=repr)
def test_a_wrong_source_is_named(source):
    with pytest.raises(ValueError, match="data must be 'auto', 'mnist', 'sample' or a pair"): data.load_data(source)


def test_classes_in_an_array_are_compared_as_well():
    sample = data.load_sample('test')[:20]
    names = [data.LabeledImages(sample.images, sample.labels, class_names=names) for names in (np.array(list('0123456789')), tuple('abcdefghij'))]
    assert data.load_data((names[0], sample))[1] is sample
    for pair in names, (sample, names[1]):
        with pytest.raises(ValueError, match='must have the same classes'): data.load_data(tuple(pair))


def resnet_from_cache(tmp_path, monkeypatch, content):
    "`resnet18(pretrained=True)` where PyTorch's cache holds this file and there is no network."
    from mnist_nb.model import resnet18
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr('torch.hub.download_url_to_file', lambda *args, **options: (_ for _ in ()).throw(OSError('no network')))
    cache = Path(torch.hub.get_dir()) / 'checkpoints'
    cache.mkdir(parents=True)
    if content is not None: (cache / 'resnet18-f37072fd.pth').write_bytes(content)
    return resnet18(pretrained=True).eval()


def test_a_gray_resnet_gives_the_features_of_the_color_one(tmp_path, monkeypatch):
    from torchvision.models import resnet18
    color = resnet18().eval()
    torch.save(color.state_dict(), tmp_path / 'color.pth')
    gray = resnet_from_cache(tmp_path, monkeypatch, (tmp_path / 'color.pth').read_bytes())
    color.fc, images = gray.fc, torch.randn(3, 1, 28, 28)
    with torch.no_grad(): torch.testing.assert_close(gray(images), color(images.repeat(1, 3, 1, 1)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('content', [None, b'', b'<html>please log in</html>', b'PK\x03\x04 half a file'])
def test_a_missing_or_damaged_resnet_is_named_with_the_way_out(content, tmp_path, monkeypatch):
    with pytest.raises(ConnectionError, match='(?s)resnet18-f37072fd.pth.*pretrained=False'): resnet_from_cache(tmp_path, monkeypatch, content)

<?php

// A Laravel application around what docs/hooks.md adds to one, in the folder that it is run in.
// Debian has the framework without its skeleton, so this is what stands in for `laravel new`.
use Illuminate\Auth\GenericUser;
use Illuminate\Contracts\Debug\ExceptionHandler;
use Illuminate\Foundation\Application;
use Illuminate\Http\Request;
use Illuminate\Support\Facades\Auth;
use Illuminate\Support\Facades\Route;

require 'Illuminate/autoload.php';

spl_autoload_register(function (string $class) {
    $file = getcwd() . '/app' . str_replace('\\', '/', substr($class, strlen('App'))) . '.php';
    if (str_starts_with($class, 'App\\') && is_file($file)) {
        require $file;
    }
});

/** Each id has a user, so that no database is needed. */
class Users implements Illuminate\Contracts\Auth\UserProvider
{
    public function retrieveById($id)
    {
        return new GenericUser(['id' => $id]);
    }

    public function retrieveByToken($id, $token)
    {
    }

    public function updateRememberToken($user, $token)
    {
    }

    public function retrieveByCredentials($credentials)
    {
    }

    public function validateCredentials($user, $credentials)
    {
    }
}

class AppServiceProvider extends Illuminate\Support\ServiceProvider
{
    public function boot()
    {
        Auth::provider('any', fn () => new Users());
        Route::middleware('web')->group(function () {
            Route::get('login/{user}', function ($user) {
                Auth::login(new GenericUser(['id' => $user]));
            });
            Route::post('order', fn () => 'ordered');
        });
        require base_path('boot.php');
    }
}

/** What `laravel new` has, without what it needs a configuration for. */
class Kernel extends Illuminate\Foundation\Http\Kernel
{
    protected $bootstrappers = [
        Illuminate\Foundation\Bootstrap\RegisterFacades::class,
        Illuminate\Foundation\Bootstrap\RegisterProviders::class,
        Illuminate\Foundation\Bootstrap\BootProviders::class,
    ];
    protected $middleware = [
        Illuminate\Foundation\Http\Middleware\TrimStrings::class,
        Illuminate\Foundation\Http\Middleware\ConvertEmptyStringsToNull::class,
    ];
    protected $middlewareGroups = ['web' => [
        Illuminate\Cookie\Middleware\EncryptCookies::class,
        Illuminate\Cookie\Middleware\AddQueuedCookiesToResponse::class,
        Illuminate\Session\Middleware\StartSession::class,
        Illuminate\Foundation\Http\Middleware\VerifyCsrfToken::class,
        Illuminate\Routing\Middleware\SubstituteBindings::class,
    ]];
}

$app = new Application(getcwd());
$app->instance('env', 'production');
$app->instance('config', new Illuminate\Config\Repository([
    'app' => [
        'key' => str_repeat('k', 32),
        'cipher' => 'AES-256-CBC',
        'debug' => false,
        'locale' => 'en',
        'fallback_locale' => 'en',
        'providers' => [
            Illuminate\Auth\AuthServiceProvider::class,
            Illuminate\Cookie\CookieServiceProvider::class,
            Illuminate\Encryption\EncryptionServiceProvider::class,
            Illuminate\Filesystem\FilesystemServiceProvider::class,
            Illuminate\Session\SessionServiceProvider::class,
            Illuminate\Translation\TranslationServiceProvider::class,
            Illuminate\View\ViewServiceProvider::class,
            AppServiceProvider::class,
        ],
    ],
    'auth' => [
        'defaults' => ['guard' => 'web'],
        'guards' => ['web' => ['driver' => 'session', 'provider' => 'users']],
        'providers' => ['users' => ['driver' => 'any']],
    ],
    'session' => [
        'driver' => 'file',
        'files' => getcwd(),
        'lifetime' => 120,
        'expire_on_close' => false,
        'lottery' => [0, 100],
        'cookie' => 'laravel_session',
        'path' => '/',
        'domain' => null,
        'secure' => false,
    ],
    'view' => ['paths' => [], 'compiled' => getcwd()],
    'services' => require getcwd() . '/services.php',
]));
$app->singleton(ExceptionHandler::class, Illuminate\Foundation\Exceptions\Handler::class);
$kernel = $app->make(Kernel::class);
$kernel->handle($request = Request::capture())->send();
